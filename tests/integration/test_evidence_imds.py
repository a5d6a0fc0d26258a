"""The IMDS client against a server: what it asks, and what each status means."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.evidence_http import Server, run_server

from skragent.errors import TransportError
from skragent.evidence.imds import ImdsClient


@pytest.fixture
def server() -> Iterator[Server]:
    with run_server() as running:
        yield running


@pytest.fixture
def imds(server: Server) -> Iterator[ImdsClient]:
    with ImdsClient(server.origin, 5) as client:
        yield client


def test_the_location_is_asked_for_as_text(server: Server, imds: ImdsClient) -> None:
    server.set(body=b"westeurope")
    assert imds.location() == "westeurope"
    assert server.requests[0].startswith(
        b"GET /metadata/instance/compute/location?api-version=2021-01-01&format=text "
    )
    assert b"\r\nMetadata: true\r\n" in server.requests[0]


def test_the_vm_id_is_a_guid(server: Server, imds: ImdsClient) -> None:
    server.set(body=b"26F8BC30-774E-4290-8E7A-535F3B672AEE\n")
    assert imds.vm_id() == "26F8BC30-774E-4290-8E7A-535F3B672AEE"


def test_endorsements_are_thims_raw_answer(server: Server, imds: ImdsClient) -> None:
    server.set(body=b"{...}")
    assert imds.endorsements() == b"{...}"
    assert server.requests[0].startswith(b"GET /metadata/THIM/amd/certification ")
    assert b"\r\nMetadata: true\r\n" in server.requests[0]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("404 Not Found", "transport.server"),
        ("408 Request Timeout", "transport.server"),
        ("410 Gone", "transport.server"),
        ("429 Too Many Requests", "transport.throttled"),
        ("500 Internal Server Error", "transport.server"),
        ("400 Bad Request", "transport.unexpected"),
        ("403 Forbidden", "transport.unexpected"),
    ],
)
def test_each_status_has_its_code(
    server: Server, imds: ImdsClient, status: str, code: str
) -> None:
    server.set(status, headers="Retry-After: 3\r\n")
    with pytest.raises(TransportError) as caught:
        imds.endorsements()
    assert caught.value.code == code
    assert caught.value.retry_after == (None if code == "transport.unexpected" else 3)


@pytest.mark.parametrize("body", [b"", b"<html>", b"../../x", b"\xff", b"a" * 65])
def test_what_is_no_location_is_refused(
    server: Server, imds: ImdsClient, body: bytes
) -> None:
    server.set(body=body)
    with pytest.raises(TransportError) as caught:
        imds.location()
    assert caught.value.code == "transport.unexpected"


def test_what_is_no_guid_is_refused(server: Server, imds: ImdsClient) -> None:
    server.set(body=b"26F8BC30")
    with pytest.raises(TransportError) as caught:
        imds.vm_id()
    assert caught.value.code == "transport.unexpected"


def test_an_endless_answer_is_refused(server: Server, imds: ImdsClient) -> None:
    server.set(body=bytes(70_000))
    with pytest.raises(TransportError) as caught:
        imds.endorsements()
    assert caught.value.code == "transport.oversized"
