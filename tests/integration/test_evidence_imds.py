"""The IMDS client: its requests, and the error of each status."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from support.evidence_http import Server, run_server

from skragent.errors import TransportError
from skragent.evidence.imds import ImdsClient

VM_ID = "26f8bc30-774e-4290-8e7a-535f3b672aee"
ORDER = "6f0e8c1d-0000-4000-8000-000000000000"
GUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


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


def test_a_renewal_is_posted_as_the_reference_client_does(
    server: Server, imds: ImdsClient
) -> None:
    """TpmCertOperations.cpp and ImdsClient.cpp of cvm-guest-attestation."""
    server.set(body=b"{}")
    assert imds.renew_ak_certificate("-----BEGIN X-----\na+/=\n", VM_ID) == b"{}"
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    target = head.split()[1].decode()
    assert re.fullmatch(
        "/metadata/THIM/tvm/certificate/renew"
        rf"\?api-version=2023-07-01&vmId={VM_ID}&requestId={GUID}",
        target,
    )
    assert head.startswith(b"POST ")
    assert b"\r\nMetadata: true\r\n" in head
    assert b"\r\nContent-Type: application/x-www-form-urlencoded" in head
    assert body == b"-----BEGIN%20X-----%0Aa%2B%2F%3D%0A"


@pytest.mark.parametrize("answer", [ORDER, f"{ORDER}\n", f'"{ORDER}"'])
def test_an_ordered_renewal_gives_the_querys_guid(
    server: Server, imds: ImdsClient, answer: str
) -> None:
    server.set(body=answer.encode())
    assert imds.order_ak_certificate("pem", VM_ID) == ORDER
    assert b"/renew?api-version=2021-12-01&vmId=" in server.requests[0]


@pytest.mark.parametrize("answer", ["", "../x", "a b", "a" * 65])
def test_a_query_id_that_is_not_a_guid_is_refused(
    server: Server, imds: ImdsClient, answer: str
) -> None:
    server.set(body=answer.encode())
    with pytest.raises(TransportError) as caught:
        imds.order_ak_certificate("pem", VM_ID)
    assert caught.value.code == "transport.unexpected"


def test_a_query_fetches_the_certificate_by_its_guid(
    server: Server, imds: ImdsClient
) -> None:
    server.set(body=b"pem")
    assert imds.ordered_ak_certificate(ORDER, VM_ID) == b"pem"
    assert re.fullmatch(
        "/metadata/THIM/tvm/certificate/query"
        rf"\?api-version=2021-12-01&vmId={VM_ID}&requestId={GUID}&guid={ORDER}",
        server.requests[0].split()[1].decode(),
    )


def test_each_request_has_an_id_of_its_own(server: Server, imds: ImdsClient) -> None:
    server.set(body=b"{}")
    for _ in range(2):
        imds.renew_ak_certificate("pem", VM_ID)
    first, second = (r.split()[1].rpartition(b"=")[2] for r in server.requests)
    assert first != second


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


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [("", 70), ("Retry-After: 0\r\n", 70), ("Retry-After: 3\r\n", 3)],
)
def test_an_update_of_imds_takes_seventy_seconds_unless_it_says_otherwise(
    server: Server, imds: ImdsClient, headers: str, seconds: float
) -> None:
    server.set("410 Gone", headers=headers)
    with pytest.raises(TransportError) as caught:
        imds.endorsements()
    assert caught.value.retry_after == seconds


@pytest.mark.parametrize("body", [b"", b"<html>", b"../../x", b"\xff", b"a" * 65])
def test_a_malformed_location_is_refused(
    server: Server, imds: ImdsClient, body: bytes
) -> None:
    server.set(body=body)
    with pytest.raises(TransportError) as caught:
        imds.location()
    assert caught.value.code == "transport.unexpected"


def test_a_malformed_vm_id_is_refused(server: Server, imds: ImdsClient) -> None:
    server.set(body=b"26F8BC30")
    with pytest.raises(TransportError) as caught:
        imds.vm_id()
    assert caught.value.code == "transport.unexpected"


def test_an_endless_answer_is_refused(server: Server, imds: ImdsClient) -> None:
    server.set(body=bytes(70_000))
    with pytest.raises(TransportError) as caught:
        imds.endorsements()
    assert caught.value.code == "transport.oversized"
