"""Responses of the emulator that never end or exceed a size limit."""

from __future__ import annotations

import logging
import socket
import ssl
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support.deadlines import DEADLINE_SECONDS, wait_until
from support.faults import THIM, Broken

from skragent.emulator.hostile_responses import DRIPS

MIB = 1 << 20


@contextmanager
def asking(broken: Broken, service: str) -> Iterator[socket.socket]:
    """Send a request, beneath HTTP: to IMDS in the clear, or to MAA with TLS."""
    azure = broken.emulator.azure
    origin, path = {
        "imds": (azure.imds_url, THIM),
        "maa": (azure.maa.issuer, "/certs"),
    }[service]
    address = ("127.0.0.1", int(origin.rpartition(":")[2]))
    connection = socket.create_connection(address, timeout=DEADLINE_SECONDS)
    if service == "maa":
        context = ssl.create_default_context(cafile=str(azure.ca_path))
        connection = context.wrap_socket(connection, server_hostname=address[0])
    with connection:
        connection.sendall(
            f"GET {path} HTTP/1.1\r\nHost: x\r\nMetadata: true\r\n\r\n".encode()
        )
        yield connection


def read_all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def body_of(answer: bytes) -> bytes:
    """Join the chunks of a body."""
    body = b""
    _, _, rest = answer.partition(b"\r\n\r\n")
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return body


@pytest.mark.parametrize("service", ["imds", "maa"])
def test_a_flood_has_the_requested_number_of_bytes(
    broken: Broken, service: str
) -> None:
    broken.break_(f"{service}.flood={8 * MIB}")
    with asking(broken, service) as connection:
        body = body_of(read_all(connection))
    assert 8 * MIB <= len(body) <= 9 * MIB
    assert not body.strip()


@pytest.mark.parametrize("service", ["imds", "maa"])
def test_a_bomb_is_small_until_it_is_unpacked(broken: Broken, service: str) -> None:
    broken.break_(f"{service}.bomb={32 * MIB}")
    with asking(broken, service) as connection:
        answer = read_all(connection)
    assert b"Content-Encoding: gzip\r\n" in answer
    assert len(answer) < MIB
    body = zlib.decompress(body_of(answer), 16 + zlib.MAX_WBITS)
    assert 32 * MIB <= len(body) <= 33 * MIB


# The bytes before the part without end.
BEFORE = {
    "status": b"HTTP/1.1 200 OK",
    "headers": b"HTTP/1.1 200 OK\r\n",
    "body": b"Content-Length: 100000\r\n\r\n",
    "chunks": b"\r\n\r\n1\r\n \r\n",
    "extension": b"\r\n\r\n1;xx",
    "trailers": b"\r\n\r\n1\r\n \r\n0\r\nX-a:b\r\n",
    "continue": b"HTTP/1.1 100 Continue\r\n\r\n",
}


@pytest.mark.parametrize("part", DRIPS)
def test_the_dripping_part_arrives_byte_by_byte_without_end(
    broken: Broken, part: str
) -> None:
    broken.break_(f"maa.drip={part}")
    with asking(broken, "maa") as connection:
        seen = b""
        while BEFORE[part] not in seen:
            seen += connection.recv(4096)
        for _ in range(3):
            assert 1 <= len(connection.recv(4096)) <= len(BEFORE["continue"])


def test_a_hostile_redirect_has_a_location(broken: Broken) -> None:
    broken.break_("imds.status=302")
    broken.break_("imds.drip")
    with asking(broken, "imds") as connection:
        seen = b""
        while b"\r\n\r\n" not in seen:
            seen += connection.recv(4096)
    assert seen.startswith(b"HTTP/1.1 302 ")
    assert b"Location: /elsewhere\r\n" in seen


@pytest.mark.parametrize("service", ["imds", "maa"])
@pytest.mark.parametrize("fault", ["drip", "flood", "bomb"])
def test_a_disconnect_ends_a_hostile_response(
    broken: Broken, caplog: pytest.LogCaptureFixture, service: str, fault: str
) -> None:
    broken.break_(f"{service}.{fault}")
    before = len(broken.emulator.requests)
    with asking(broken, service) as connection:
        assert connection.recv(1)
    wait_until(lambda: len(broken.emulator.requests) > before)
    broken.reset()
    assert broken.ask_one(service).status_code == 200
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []
