"""Hostile callers: any sequence of sends, reads and closes keeps the invariants."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from support.serving import (
    ALIAS,
    FORMS,
    NEXT_VERSION,
    VERSION,
    get,
    held_key,
    ring_with,
)
from support.serving_in_memory import FullSocket, InMemoryServer, with_server

from skragent.keyring import Keyring, KeyState
from skragent.serving import Limits

KEY = get(f"/v1/keys/{ALIAS}")
BODY = b"x" * 40
REQUESTS = st.sampled_from(
    [
        KEY,
        KEY.replace(b"GET", b"HEAD", 1),
        get(f"/v1/keys/{ALIAS}", "Connection: close"),
        get(f"/v1/keys/{ALIAS}?wait=3"),
        get(f"/v1/keys/{ALIAS}?wait=3", f'If-None-Match: "{VERSION}"'),
        get("/v1/keys/later?wait=2"),
        get("/v1/status"),
        get("/v1/keys", "Content-Length: 40") + BODY,
        get("/v1/keys", "Content-Length: 41") + BODY,
        get("/v1/keys", "Content-Length: 99999999999999999999") + BODY,
        get("/v1/keys", "Content-Length: -1") + BODY,
        get("/v1/keys", "Content-Length: 0", "Content-Length: 40") + BODY,
        get("/v1/keys", "Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n",
        get("/v1/keys", "Transfer-Encoding: chunked", "Content-Length: 3") + BODY,
        get("/v1/keys", "Content-Length: 90") + KEY,
        get("/v1/keys", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        get("/v1/keys", "Transfer-Encoding: chunked") + b"5;a=b\r\nhel",
        get("/v1/keys", "Transfer-Encoding: chunked") + b"1\r\nx\r\n" * 50,
        get("/v1/keys", "Transfer-Encoding: chunked") + b"33\r\n",
        get("/v1/keys", "Transfer-Encoding: gzip") + BODY,
        get("/v1/keys", "Expect: 100-continue", "Content-Length: 40"),
        get("/wanted", "Expect: 100-continue", "Content-Length: 40"),
        get("/wanted", "Expect: 100-continue", "Transfer-Encoding: chunked"),
        get("/v1/keys/later?wait=2").replace(b"GET", b"HEAD", 1),
        KEY.replace(b"HTTP/1.1", b"HTTP/1.0"),
        b"GET /v1/keys/db HTTP/1.0\r\n\r\n",
        KEY.replace(b"\r\n", b"\n"),
        KEY.replace(b"\r\n", b"\r"),
        KEY.replace(b" ", b"\t"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 400 + b"\r\n\r\n",
        b"GET " + b"/" * 300 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"\0" * 50,
    ]
)
SENT = st.one_of(REQUESTS, st.binary(max_size=60))
STEPS = st.one_of(
    st.tuples(st.just("send"), st.integers(0, 2), SENT),
    st.tuples(st.just("cut"), st.integers(0, 2), st.integers(1, 60)),
    st.tuples(st.just("room"), st.integers(0, 2), st.integers(1, 300)),
    st.tuples(st.just("gone"), st.integers(0, 2), st.none()),
    st.tuples(st.just("pass_"), st.integers(1, 4), st.none()),
    st.tuples(st.just("put"), st.sampled_from([VERSION, NEXT_VERSION]), st.none()),
    st.tuples(
        st.just("mark"), st.sampled_from([KeyState.DENIED, KeyState.DROPPED]), st.none()
    ),
)
LIMITS = Limits(
    connections=8,
    connections_per_uid=8,
    requests_in_flight=3,
    long_polls=2,
    requests_per_second_per_uid=20,
    head_bytes=300,
    body_bytes=50,
    head_timeout_seconds=2,
    idle_timeout_seconds=6,
    send_timeout_seconds=3,
)


class Play:
    """One wire with three callers, and what is done to it."""

    def __init__(self, server: InMemoryServer, ring: Keyring) -> None:
        self.server = server
        self.ring = ring
        server.listener._accepts_body = lambda request, _peer: request.path == "/wanted"
        self.socks = [self.connect() for _ in range(3)]
        self.ended: list[FullSocket] = []

    def connect(self) -> FullSocket:
        _, sock = self.server.connect(room=150)
        return sock

    def alive(self, i: int) -> FullSocket:
        if self.socks[i].closed:
            self.ended.append(self.socks[i])
            self.socks[i] = self.connect()
        return self.socks[i]

    def do(self, what: str, *arguments: Any) -> None:  # noqa: ANN401 - the step's
        getattr(self, what)(*arguments)

    def send(self, i: int, data: bytes) -> None:
        self.alive(i).arrive(data)

    def cut(self, i: int, count: int) -> None:
        """Send the beginning of a request, byte by byte."""
        sock = self.alive(i)
        for byte in KEY[:count]:
            if not sock.closed:
                sock.arrive(bytes([byte]))

    def room(self, i: int, count: int) -> None:
        self.make_room(self.alive(i), count)

    def gone(self, i: int, _: None) -> None:
        sock = self.alive(i)
        for connection in list(self.server.listener.admission._connections):
            if connection._socket is sock:
                connection.abort()

    def pass_(self, seconds: int, _: None) -> None:
        self.server.pass_seconds(seconds)

    def put(self, version: str, _: None) -> None:
        self.ring.put(held_key(version=version))

    def mark(self, state: KeyState, _: None) -> None:
        for sock in self.socks:  # ApiServer aborts slow readers before the wipe
            self.forget_partly_taken(sock)
        self.ring.mark(ALIAS, state)

    def make_room(self, sock: FullSocket, room: int) -> None:
        sock.room += room
        writers = self.server.loop.writers
        if not sock.closed and sock.fileno() in writers:
            writers[sock.fileno()]()

    def forget_partly_taken(self, sock: FullSocket) -> None:
        for connection in list(self.server.listener.admission._connections):
            if connection._socket is sock and connection.is_sending:
                connection.abort()


@settings(max_examples=1500)
@given(st.lists(STEPS, max_size=30))
def test_invariants_hold_after_any_steps_of_callers(
    steps: list[tuple[str, Any, Any]],
) -> None:
    ring = ring_with(held_key(), waiting=["later"])

    def test(server: InMemoryServer) -> None:
        play = Play(server, ring)
        for step in steps:
            play.do(*step)
            assert server.counters.in_flight["api"] <= 3 + len(play.socks)
            assert len(server.listener.admission._connections) <= 8
            assert len(server.api._long_polls) <= 2
            for connection in server.listener.admission._connections:
                assert len(connection._reader) <= 350 + 16384
        for _ in range(20):  # the callers do nothing more
            server.pass_seconds(1)
        assert server.listener.admission._connections == set()
        assert server.counters.connections["api"] == 0
        assert server.counters.in_flight["api"] == 0
        assert not server.loop.readers
        assert not server.loop.writers
        for sock in (*play.socks, *play.ended):
            judge(sock.sent)

    with_server(ring, test, limits=LIMITS)


def judge(sent: bytes) -> None:
    """Check that the bytes are responses without zeros; the last may be incomplete."""
    assert b"\0" not in sent
    while sent:
        head, end, rest = sent.partition(b"\r\n\r\n")
        if not end:
            return
        assert re.match(rb"HTTP/1\.1 (100|200|304|4\d\d|50[0135]) ", head), head
        headers = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
        length = int(headers.get(b"Content-Length", b"0"))
        is_head = length > 0 and rest.startswith(b"HTTP/1.1 ")  # no body begins so
        if is_head:
            length = 0
        if len(rest) < length:
            return
        if b"Skragent-State" in headers and b" 200 " in head[:14] and not is_head:
            assert rest[:length] == FORMS["jwk"]
        sent = rest[length:]
        if headers.get(b"Connection") == b"close":
            assert sent == b""
