"""HTTP as clients speak it: HTTP/1.0, HEAD, chunked bodies, Expect: 100-continue."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING

import pytest
from support.serving import ALIAS, FORMS, get, held_key, ring_with, split_responses
from support.serving_in_memory import (
    FullSocket,
    InMemoryServer,
    count_cached,
    feed,
    with_server,
)

from skragent.serving import Limits
from skragent.serving.http.response import Response, json_response

if TYPE_CHECKING:
    from collections.abc import Callable

    from skragent.serving.http.request import Request
    from skragent.serving.peers import Peer

KEY = get(f"/v1/keys/{ALIAS}")
OLD = f"GET /v1/keys/{ALIAS} HTTP/1.0\r\n\r\n".encode()
HEAD = KEY.replace(b"GET", b"HEAD", 1)
SOON = get(f"/v1/keys/{ALIAS}?wait=10")
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CHUNKS = b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n"
SMALL = Limits(head_bytes=200, body_bytes=50, head_timeout_seconds=5)


def post(*headers: str) -> bytes:
    return get("/echo", *headers).replace(b"GET", b"POST", 1)


CHUNKED = post("Transfer-Encoding: chunked")
EXPECTING = post("Transfer-Encoding: chunked", "Expect: 100-continue")


def head_of(data: bytes) -> bytes:
    return data.partition(b"\r\n\r\n")[0]


def echoing(
    test: Callable[[InMemoryServer, FullSocket], None],
    *,
    limits: Limits = SMALL,
    takes: bool = True,
) -> None:
    """Run a test with a connection that answers with the body that it got."""

    def run(server: InMemoryServer) -> None:
        cell = server.counters.requests_cell("api", "get", "ok")

        def echo(request: Request, peer: Peer) -> Response:  # noqa: ARG001 - a handler's
            document = {"body": request.body.decode("latin-1")}
            return json_response(document, counter=cell)

        server.listener._handle = echo
        server.listener._accepts_body = lambda _request, _peer: takes
        _, sock = server.connect()
        test(server, sock)

    with_server(ring_with(held_key()), run, limits=limits)


def bodies(sent: bytes) -> list[str]:
    return [json.loads(response.body)["body"] for response in split_responses(sent)]


# HTTP/1.0


def test_an_http_1_0_client_gets_a_response_and_a_close() -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, OLD)
        (response,) = split_responses(sock.sent)
        assert (response.status, response.body) == (200, FORMS["jwk"])
        assert response.headers["Connection"] == "close"
        assert sock.closed

    with_server(ring_with(held_key()), test)


def test_an_http_1_0_client_cannot_pipeline() -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, OLD + KEY)
        assert len(split_responses(sock.sent)) == 1
        assert sock.closed

    with_server(ring_with(held_key()), test)


def test_a_repeated_http_1_0_request_is_served_from_the_cache() -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, OLD)
        again = server.visit(OLD)
        assert [a.body for a in split_responses(again.sent)] == [FORMS["jwk"]]
        assert again.closed

    with_server(ring_with(held_key()), test)


def test_an_http_1_0_client_may_wait_for_a_key() -> None:
    ring = ring_with(waiting=[ALIAS])

    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, b"GET /v1/keys/db?wait=10 HTTP/1.0\r\n\r\n")
        assert sock.sent == b""
        ring.put(held_key())
        assert [a.body for a in split_responses(sock.sent)] == [FORMS["jwk"]]
        assert sock.closed

    with_server(ring, test)


def test_an_http_1_0_client_gets_no_100() -> None:
    def test(_: InMemoryServer, sock: FullSocket) -> None:
        head = (
            b"POST /echo HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        )
        feed(sock, head)
        assert sock.sent == b""
        feed(sock, b"hello")
        assert bodies(sock.sent) == ["hello"]
        assert sock.closed

    echoing(test)


# HEAD


@pytest.mark.parametrize(
    "request_",
    [
        KEY,
        get(f"/v1/keys/{ALIAS}/public"),
        get(f"/v1/keys/{ALIAS}", 'If-None-Match: "0123456789abcdef0123456789abcdef"'),
        get("/v1/keys/unknown"),
        get("/v1/keys"),
        get("/v1/status"),
        get("/v1/openapi.json"),
        get("/healthz"),
        get("/nothing"),
        get("/healthz?unknown"),
        get("/v1/keys", "Content-Length: 999999999"),
        get("/v1/keys", "Expect: 200-ok"),
        get("/v1/keys", "Host: other"),
    ],
)
def test_head_has_the_headers_of_get_and_no_body(request_: bytes) -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, request_)
        _, other = server.connect()
        feed(other, request_.replace(b"GET", b"HEAD", 1))
        assert other.sent == head_of(sock.sent) + b"\r\n\r\n"
        assert other.closed == sock.closed

    with_server(ring_with(held_key()), test)


def test_head_is_counted_like_get() -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, HEAD + HEAD + KEY)
        assert server.counters.requests["api", "get", "ok"].value == 3

    with_server(ring_with(held_key()), test)


def test_requests_after_a_head_are_served_in_order() -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, HEAD + KEY + HEAD)
        head = head_of(sock.sent) + b"\r\n\r\n"
        assert sock.sent == head + head + FORMS["jwk"] + head

    with_server(ring_with(held_key()), test)


def test_head_uses_the_quota() -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, HEAD + HEAD)
        first, second, rest = sock.sent.split(b"\r\n\r\n")
        assert first.startswith(b"HTTP/1.1 200 ")
        assert second.startswith(b"HTTP/1.1 429 ")
        assert rest == b""

    with_server(
        ring_with(held_key()), test, limits=Limits(requests_per_second_per_uid=1)
    )


def test_head_can_be_a_long_poll() -> None:
    ring = ring_with(waiting=[ALIAS])

    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, SOON.replace(b"GET", b"HEAD", 1))
        assert sock.sent == b""
        ring.put(held_key())
        assert sock.sent.startswith(b"HTTP/1.1 200 ")
        assert sock.sent.endswith(b"Content-Length: 26\r\n\r\n")
        feed(sock, KEY)
        assert sock.sent.endswith(FORMS["jwk"])

    with_server(ring, test)


def test_a_head_long_poll_that_expires_has_no_body() -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, SOON.replace(b"GET", b"HEAD", 1))
        server.pass_seconds(11)
        head, rest = sock.sent.split(b"\r\n\r\n")
        assert (head[:13], rest) == (b"HTTP/1.1 503 ", b"")

    with_server(ring_with(waiting=[ALIAS]), test)


def test_a_rejected_head_long_poll_has_no_body() -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, SOON.replace(b"GET", b"HEAD", 1))
        head, rest = sock.sent.split(b"\r\n\r\n")
        assert (head[:13], rest) == (b"HTTP/1.1 503 ", b"")

    with_server(ring_with(waiting=[ALIAS]), test, limits=Limits(long_polls=0))


def test_the_timeout_of_a_head_has_no_body() -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, HEAD[:-2])
        server.pass_seconds(6)
        head, rest = sock.sent.split(b"\r\n\r\n")
        assert (head[:13], rest) == (b"HTTP/1.1 408 ", b"")

    with_server(ring_with(), test)


def test_the_internal_error_of_a_head_has_no_body() -> None:
    def broken(request: Request, peer: Peer) -> Response:
        raise ZeroDivisionError(request.path, peer)

    def test(server: InMemoryServer) -> None:
        server.listener._handle = broken
        _, sock = server.connect()
        feed(sock, HEAD)
        head, rest = sock.sent.split(b"\r\n\r\n")
        assert (head[:13], rest) == (b"HTTP/1.1 500 ", b"")

    with_server(ring_with(), test)


# Chunked bodies


def test_a_chunked_body_is_read() -> None:
    def test(_: InMemoryServer, sock: FullSocket) -> None:
        feed(sock, CHUNKED + CHUNKS)
        assert bodies(sock.sent) == ["hello!"]
        assert not sock.closed

    echoing(test)


def test_what_follows_a_chunked_body_is_the_next_request() -> None:
    def test(_: InMemoryServer, sock: FullSocket) -> None:
        for byte in (CHUNKED + CHUNKS) * 2 + KEY:
            feed(sock, bytes([byte]))
        assert bodies(sock.sent) == ["hello!", "hello!", ""]

    echoing(test)


def test_a_chunk_with_a_request_inside_is_a_body() -> None:
    inner = b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n"
    data = f"{len(inner):x}\r\n".encode() + inner + b"\r\n0\r\n\r\n"

    def test(_: InMemoryServer, sock: FullSocket) -> None:
        feed(sock, CHUNKED + data)
        assert bodies(sock.sent) == [inner.decode()]

    echoing(test)


def test_a_chunked_body_without_chunks_counts_as_no_body() -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, get(f"/v1/keys/{ALIAS}", "Transfer-Encoding: chunked"))
        feed(sock, b"0\r\n\r\n")
        assert [a.body for a in split_responses(sock.sent)] == [FORMS["jwk"]]

    with_server(ring_with(held_key()), test)


def test_a_request_with_a_body_is_not_cached() -> None:
    request = get(f"/v1/keys/{ALIAS}", "Transfer-Encoding: chunked")

    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, request + b"0\r\n\r\n")
        feed(sock, request)
        assert len(split_responses(sock.sent)) == 1
        feed(sock, b"1\r\nx\r\n0\r\n\r\n")
        assert [a.status for a in split_responses(sock.sent)] == [200, 400]

    with_server(ring_with(held_key()), test)


def test_a_last_request_with_a_body_is_not_cached() -> None:
    headers = ("Transfer-Encoding: chunked", "Connection: close")
    request = get(f"/v1/keys/{ALIAS}", *headers)

    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, request + b"0\r\n\r\n")
        assert count_cached(server) == 0

    with_server(ring_with(held_key()), test)


def test_the_end_of_input_repeats_no_response() -> None:
    request = get(f"/v1/keys/{ALIAS}", "Transfer-Encoding: chunked")

    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, request + b"0\r\n\r\n")
        sock.finish()
        assert len(split_responses(sock.sent)) == 1
        assert sock.closed

    with_server(ring_with(held_key()), test)


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"33\r\n", 413, "serve.body"),
        (b"1;" + b"a" * 180, 0, ""),
        (b"1;" + b"a" * 190 + b"\r\nx\r\n0\r\n\r\n", 413, "serve.body"),
        (b"1;" + b"a" * 300, 413, "serve.body"),
        (b"0\r\n" + b"A: b\r\n" * 40 + b"\r\n", 413, "serve.body"),
        (b"zz\r\n", 400, "serve.bad_request"),
    ],
)
def test_a_chunked_body_has_limits(data: bytes, status: int, code: str) -> None:
    def test(_: InMemoryServer, sock: FullSocket) -> None:
        feed(sock, CHUNKED + data)
        responses = split_responses(sock.sent)
        found = [(response.status, response.code) for response in responses]
        assert found == ([(status, code)] if status else [])
        assert sock.closed == bool(status)

    echoing(test)


def test_a_slow_chunked_body_times_out() -> None:
    def test(server: InMemoryServer, sock: FullSocket) -> None:
        for byte in (CHUNKED + CHUNKS)[: len(CHUNKED)]:
            feed(sock, bytes([byte]))
        for byte in CHUNKS[:6]:
            assert not sock.closed
            feed(sock, bytes([byte]))
            server.pass_seconds(1)
        (response,) = split_responses(sock.sent)
        assert (response.status, response.code) == (408, "serve.timeout")

    echoing(test)


def test_a_late_body_has_the_deadline_of_its_request() -> None:
    def test(server: InMemoryServer, sock: FullSocket) -> None:
        feed(sock, CHUNKED)  # the head is taken out, so that nothing is pending
        server.pass_seconds(4)
        feed(sock, CHUNKS[:1])
        server.pass_seconds(2)
        assert [a.status for a in split_responses(sock.sent)] == [408]

    echoing(test)


def test_the_framing_of_a_chunked_body_is_not_kept() -> None:
    def test(server: InMemoryServer, sock: FullSocket) -> None:
        feed(sock, CHUNKED)
        for _ in range(30):
            feed(sock, b"1\r\nx\r\n")
        (connection,) = server.listener.admission._connections
        assert len(connection._reader) == 30

    echoing(test)


def test_a_body_in_parts_is_charged_to_the_round() -> None:
    def test(server: InMemoryServer, sock: FullSocket) -> None:
        quota = next(iter(server.listener.admission._connections)).caller.quota
        feed(sock, CHUNKED)
        before, reserve = quota.left, quota.reserve
        feed(sock, b"1\r\nx\r\n" * 30)
        assert quota.left < before
        assert quota.left + quota.reserve == before + reserve

    echoing(test)


# Expect: 100-continue


def test_an_accepted_body_gets_100_continue() -> None:
    def test(_: InMemoryServer, sock: FullSocket) -> None:
        feed(sock, EXPECTING)
        assert sock.sent == CONTINUE
        feed(sock, CHUNKS)
        assert bodies(sock.sent.removeprefix(CONTINUE)) == ["hello!"]
        assert not sock.closed

    echoing(test)


@pytest.mark.parametrize("count", [1, 10, len(CHUNKS)])
def test_a_body_that_has_begun_gets_no_100(count: int) -> None:
    def test(_: InMemoryServer, sock: FullSocket) -> None:
        feed(sock, EXPECTING + CHUNKS[:count])
        feed(sock, CHUNKS[count:])
        assert bodies(sock.sent) == ["hello!"]

    echoing(test)


def test_100_continue_is_sent_once() -> None:
    def test(_: InMemoryServer, sock: FullSocket) -> None:
        for byte in EXPECTING + CHUNKS:
            feed(sock, bytes([byte]))
        assert sock.sent.count(CONTINUE) == 1

    echoing(test)


@pytest.mark.parametrize("header", ["X: y", "Content-Length: 0"])
def test_a_request_without_a_body_gets_no_100(header: str) -> None:
    def test(_: InMemoryServer, sock: FullSocket) -> None:
        feed(sock, post("Expect: 100-continue", header))
        assert bodies(sock.sent) == [""]

    echoing(test)


def test_a_body_too_large_gets_no_100() -> None:
    def test(_: InMemoryServer, sock: FullSocket) -> None:
        feed(sock, post("Expect: 100-continue", "Content-Length: 51"))
        assert [a.status for a in split_responses(sock.sent)] == [413]
        assert sock.closed

    echoing(test)


@pytest.mark.parametrize("body", [b"", b"hello", b"hello" + KEY])
def test_an_unwanted_body_gets_no_100_and_closes_the_connection(
    body: bytes,
) -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        headers = ("Expect: 100-continue", "Content-Length: 5")
        feed(sock, get(f"/v1/keys/{ALIAS}", *headers) + body)
        (response,) = split_responses(sock.sent)
        assert (response.status, response.code) == (400, "serve.body")
        assert response.headers["Connection"] == "close"
        assert sock.closed

    with_server(ring_with(held_key()), test)


def test_a_throttled_client_gets_no_100() -> None:
    def test(_: InMemoryServer, sock: FullSocket) -> None:
        feed(sock, post() + EXPECTING)
        assert [a.status for a in split_responses(sock.sent)] == [200, 429]
        assert sock.closed

    echoing(test, limits=Limits(requests_per_second_per_uid=1))


def test_a_100_waits_for_the_response_before_it() -> None:
    def test(_: InMemoryServer, sock: FullSocket) -> None:
        sock.room = 10
        feed(sock, post() + EXPECTING)
        assert len(sock.sent) == 10
        sock.make_room()
        assert sock.sent.endswith(CONTINUE)
        feed(sock, CHUNKS)
        assert bodies(sock.sent.replace(CONTINUE, b"")) == ["", "hello!"]

    echoing(test)


def test_a_slowly_read_100_is_complete() -> None:
    def test(server: InMemoryServer, sock: FullSocket) -> None:
        sock.room = 10
        feed(sock, EXPECTING)
        assert sock.sent == CONTINUE[:10]
        sock.make_room()
        assert sock.sent == CONTINUE
        assert server.counters.in_flight["api"] == 0
        feed(sock, CHUNKS)
        assert bodies(sock.sent.removeprefix(CONTINUE)) == ["hello!"]

    echoing(test)


def test_a_missing_body_after_100_times_out() -> None:
    def test(server: InMemoryServer, sock: FullSocket) -> None:
        feed(sock, EXPECTING)
        server.pass_seconds(6)
        (response,) = split_responses(sock.sent.removeprefix(CONTINUE))
        assert (response.status, response.code) == (408, "serve.timeout")

    echoing(test)


def test_a_response_without_the_unwanted_body_is_not_cached() -> None:
    def test(server: InMemoryServer, sock: FullSocket) -> None:
        cell = server.counters.requests_cell("api", "get", "ok")
        kept = Response(HTTPStatus.OK, {}, b"1", counter=cell, is_cacheable=True)
        server.listener._handle = lambda _request, _peer: kept
        feed(sock, EXPECTING)
        assert [a.status for a in split_responses(sock.sent)] == [200]
        assert count_cached(server) == 0
        assert sock.closed

    echoing(test, takes=False)
