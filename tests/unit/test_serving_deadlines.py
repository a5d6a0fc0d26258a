"""When the time that a connection has begins: with what happened last."""

from __future__ import annotations

from support.serving import ALIAS, get, held_key, ring_with
from support.serving_in_memory import FullSocket, InMemoryServer, feed, with_server

from skragent.serving import Limits

KEY = get(f"/v1/keys/{ALIAS}")
SOON = get(f"/v1/keys/{ALIAS}?wait=50")
OPENAPI = get("/v1/openapi.json")  # the one answer that outlasts a second
LIMITS = Limits(head_timeout_seconds=5, idle_timeout_seconds=60, send_timeout_seconds=9)


def ends_after(server: InMemoryServer, sock: FullSocket, seconds: int) -> bool:
    """Check that a connection stays open for this time, and not longer."""
    server.pass_seconds(seconds)
    was_there = not sock.closed
    server.pass_seconds(1)
    return was_there and sock.closed


def test_a_silent_connection_is_idle_from_the_start() -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        assert ends_after(server, sock, 60)

    with_server(ring_with(), test, limits=LIMITS)


def test_the_idle_time_begins_after_a_cached_response() -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, OPENAPI)
        server.pass_seconds(40)
        feed(sock, OPENAPI)
        assert ends_after(server, sock, 60)

    with_server(ring_with(), test, limits=LIMITS)


def test_the_idle_time_begins_after_a_slow_reader_has_finished() -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect(room=10)
        feed(sock, KEY)
        server.pass_seconds(9)
        sock.make_room()
        assert ends_after(server, sock, 60)

    with_server(ring_with(held_key()), test, limits=LIMITS)


def test_the_idle_time_begins_after_a_long_poll() -> None:
    ring = ring_with(waiting=[ALIAS])

    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, SOON)
        server.pass_seconds(40)
        ring.put(held_key())
        assert ends_after(server, sock, 60)

    with_server(ring, test, limits=LIMITS)


def test_the_idle_time_begins_after_a_slow_request() -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, KEY[:10])
        server.pass_seconds(5)
        feed(sock, KEY[10:])
        assert ends_after(server, sock, 60)

    with_server(ring_with(held_key()), test, limits=LIMITS)


def test_the_error_of_a_late_request_has_the_full_send_timeout() -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect(room=10)
        feed(sock, KEY[:10])
        server.pass_seconds(6)
        assert sock.sent == b"HTTP/1.1 4"
        assert ends_after(server, sock, 9)

    with_server(ring_with(held_key()), test, limits=LIMITS)


def test_a_closed_connection_is_not_overdue() -> None:
    """The response to an overdue long poll may evict another connection."""

    def test(server: InMemoryServer) -> None:
        connection, sock = server.connect()
        feed(sock, b"GET /healthz")
        connection.evict()
        server.listener.tick += 100
        assert not connection.is_overdue()

    with_server(ring_with(), test)


def test_the_tick_stops_without_connections() -> None:
    def test(server: InMemoryServer) -> None:
        connection, _ = server.connect()
        server.pass_seconds(1)
        assert len(server.loop.timers) == 1
        connection.abort()
        server.pass_seconds(1)
        assert server.loop.timers == []
        server.connect()
        assert len(server.loop.timers) == 1

    with_server(ring_with(), test)
