"""Hostile responses: each exchange ends within its limits, with an AgentError.

The corpus is for the one boundary to requests, urllib3 and http.client. That a test
ends shows that its exchange did; how exactly in time, `make bench` measures.
"""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.deadlines import DEADLINE_SECONDS, SHORT_SECONDS, wait_until
from support.hostile_server import HostileServer, run_hostile_server
from support.release_server import make_tls

from skragent.errors import TransportError
from skragent.transport import HttpClient

MIB = 1 << 20

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
X = b"x"


@pytest.fixture(params=["http", "https"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(scheme: str, tmp_path: Path) -> Iterator[HostileServer]:
    tls = make_tls(tmp_path)[0] if scheme == "https" else None
    with run_hostile_server(tls) as running:
        yield running


@pytest.fixture
def ca_file(scheme: str, tmp_path: Path) -> str:
    return str(tmp_path / "ca.pem") if scheme == "https" else ""


@pytest.fixture
def client(ca_file: str) -> Iterator[HttpClient]:
    """A client whose time is never over."""
    with HttpClient(
        timeout_seconds=DEADLINE_SECONDS, ca_file=ca_file, use_proxies=False
    ) as opened:
        yield opened


@pytest.fixture
def hurried(ca_file: str) -> Iterator[HttpClient]:
    """A client whose time is over before anything ends that drips."""
    with HttpClient(
        timeout_seconds=8 * SHORT_SECONDS, ca_file=ca_file, use_proxies=False
    ) as opened:
        yield opened


def failure(client: HttpClient, url: str) -> str:
    """Ask once; the code of the error."""
    with pytest.raises(TransportError) as caught:
        client.request("GET", url, max_bytes=MIB)
    return caught.value.code


def succeeds(client: HttpClient, url: str) -> bool:
    try:
        return client.request("GET", url, max_bytes=9).body == b"hi"
    except TransportError:
        return False


# What comes at once, and what then drips, over and over.
DRIPS: dict[str, tuple[bytes, list[bytes]]] = {
    "status line": (b"HTTP/1.1 200 ", [X]),
    "header": (OK + b"X: ", [X]),
    "headers": (OK, [b"X", b":", b"y", b"\r\n"]),
    "continue": (b"", [b"HTTP/1.1 100 Continue\r\n", b"\r\n"]),
    "body": (OK + b"Content-Length: 100000\r\n\r\n", [X]),
    "body without length": (OK + b"\r\n", [X]),
    "chunks": (CHUNKED, [b"1", b"\r\n", b"x", b"\r\n"]),
    "chunk size": (CHUNKED, [b"0"]),
    "chunk extension": (CHUNKED + b"1;", [X]),
    "trailers": (CHUNKED + b"1\r\nx\r\n0\r\n", [b"X", b":", b"y", b"\r\n"]),
    "body of a refusal": (
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 100000\r\n\r\n",
        [X],
    ),
}


@pytest.mark.parametrize("part", DRIPS)
def test_an_answer_that_drips_ends_with_the_exchanges_time(
    server: HostileServer, hurried: HttpClient, scheme: str, part: str
) -> None:
    server.drip(*DRIPS[part])
    assert failure(hurried, server.url(scheme)) == "transport.timeout"


STATUSES = {
    200: b"HTTP/1.1 200 OK\r\n",
    302: b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\n",
    403: b"HTTP/1.1 403 Forbidden\r\n",
    407: b"HTTP/1.1 407 Proxy Authentication Required\r\n",
    503: b"HTTP/1.1 503 Service Unavailable\r\n",
}


def test_the_body_of_a_redirect_is_not_even_begun(
    server: HostileServer, client: HttpClient, scheme: str
) -> None:
    server.drip(STATUSES[302] + b"Content-Length: 9\r\n\r\n", [X])
    assert failure(client, server.url(scheme)) == "transport.unexpected"


def most_memory() -> int:
    """The most memory that this process ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("kind", ["flood", "bomb"])
def test_a_huge_answer_is_not_read(
    server: HostileServer, client: HttpClient, scheme: str, status: int, kind: str
) -> None:
    head = STATUSES[status] + (b"Content-Encoding: gzip\r\n" if kind == "bomb" else b"")
    size = 200 * MIB
    (server.bomb if kind == "bomb" else server.flood)(head + b"\r\n", size)
    before = most_memory()
    code = failure(client, server.url(scheme))
    assert code in {"transport.oversized", "transport.unexpected"}
    assert most_memory() - before <= 16 * MIB
    assert server.sent < 64 * MIB


CORPUS: dict[str, bytes] = {
    "nothing": b"",
    "a blank line": b"\r\n\r\n",
    "zeros": bytes(1000),
    "ff": b"\xff" * 1000,
    "no status": b"HTTP/1.1\r\n\r\n",
    "a status that is not a number": b"HTTP/1.1 abc OK\r\n\r\n",
    "a negative status": b"HTTP/1.1 -200 OK\r\n\r\n",
    "a status of 5000 digits": b"HTTP/1.1 " + b"2" * 5000 + b" OK\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a long status line": b"HTTP/1.1 200 " + b"x" * 100_000 + b"\r\n\r\n",
    "a long header": OK + b"X: " + b"x" * 100_000 + b"\r\n\r\n",
    "many headers": OK + b"X: y\r\n" * 10_000 + b"\r\n",
    "many continues": b"HTTP/1.1 100 Continue\r\n\r\n" * 100_000,
    "a header without a name": OK + b": x\r\nContent-Length: x\r\n\r\n",
    "a length of 5000 digits": OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
    "a huge length": OK + b"Content-Length: 99999999999999999999\r\n\r\n",
    "a negative length": OK + b"Content-Length: -1\r\n\r\nx",
    "a length in words": OK + b"Content-Length: ten\r\n\r\nx",
    "a length of other digits": OK + "Content-Length: ٣\r\n\r\nxxx".encode(),
    "two lengths": OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    "a short body": OK + b"Content-Length: 100\r\n\r\nx",
    "a bad chunk size": CHUNKED + b"zz\r\nx\r\n0\r\n\r\n",
    "a negative chunk size": CHUNKED + b"-1\r\nx\r\n0\r\n\r\n",
    "a huge chunk size": CHUNKED + b"FFFFFFFFFFFFFFFF\r\nx",
    "a chunk size of 100000 digits": CHUNKED + b"1" * 100_000 + b"\r\nx",
    "no last chunk": CHUNKED + b"1\r\nx\r\n",
    "many trailers": CHUNKED + b"0\r\n" + b"X: y\r\n" * 100_000,
    "a bad location": b"HTTP/1.1 302 Found\r\nLocation: http://[::1\r\n\r\n",
    "a location of ff": b"HTTP/1.1 301 Moved\r\nLocation: \xff\xfe\r\n\r\n",
    "a location without an end": b"HTTP/1.1 308 Moved\r\nLocation: http://"
    + b"a" * 60_000,
    "gzip that is none": OK + b"Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx",
    "encodings": OK + b"Content-Encoding: " + b"gzip," * 1000 + b"gzip\r\n\r\nx",
    "brotli": OK + b"Content-Encoding: br\r\nContent-Length: 1\r\n\r\nx",
    "an upgrade": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
}
# Odd, and read all the same: as the head says, or as the libraries read it.
MAY_SUCCEED = {
    *("a blank line", "a header without a name", "two lengths", "an upgrade"),
    *("a negative length", "many trailers"),
}


@pytest.mark.parametrize("name", CORPUS)
def test_a_hostile_answer_is_an_error_of_ours(
    server: HostileServer, client: HttpClient, scheme: str, name: str
) -> None:
    server.answer(CORPUS[name])
    if name in MAY_SUCCEED:
        with contextlib.suppress(TransportError):
            response = client.request("GET", server.url(scheme), max_bytes=MIB)
            assert len(response.body) <= MIB
    else:
        with pytest.raises(TransportError) as caught:
            client.request("GET", server.url(scheme), max_bytes=MIB)
        assert caught.value.message.isprintable()
        assert len(caught.value.message) < 1000


@pytest.mark.parametrize("part", ["body", "headers", "chunks"])
def test_a_server_that_drips_costs_the_next_request_nothing(
    server: HostileServer, hurried: HttpClient, scheme: str, part: str
) -> None:
    server.drip(*DRIPS[part])
    assert failure(hurried, server.url(scheme)) == "transport.timeout"
    server.answer(OK + b"Content-Length: 2\r\n\r\nhi")
    wait_until(lambda: succeeds(hurried, server.url(scheme)))


def test_a_handshake_that_drips_ends_with_the_exchanges_time(tmp_path: Path) -> None:
    make_tls(tmp_path)
    with (
        run_hostile_server() as server,  # speaks no TLS, and drips
        HttpClient(
            timeout_seconds=8 * SHORT_SECONDS,
            ca_file=str(tmp_path / "ca.pem"),
            use_proxies=False,
        ) as client,
    ):
        # A TLS record that announces 16 kB of handshake, for ever.
        server.drip(b"\x16\x03\x03\x40\x00", [b"\x00"])
        assert failure(client, server.url("https")) in {
            "transport.timeout",
            "transport.tls",
        }
