"""How connections end, and a listener with them."""

from __future__ import annotations

import asyncio
import dataclasses

from support.serving import (
    ALIAS,
    FORMS,
    MYSELF,
    get,
    held_key,
    ring_with,
    split_responses,
)
from support.serving_in_memory import InMemoryServer, feed, with_server

from skragent.serving import Limits

KEY = get(f"/v1/keys/{ALIAS}")
LAST_KEY = get(f"/v1/keys/{ALIAS}", "Connection: close")
SOON = get(f"/v1/keys/{ALIAS}?wait=10")
OTHER = dataclasses.replace(MYSELF, uid=MYSELF.uid + 1)


def test_a_half_closed_long_poll_gets_its_response_and_closes() -> None:
    ring = ring_with(waiting=[ALIAS])

    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, SOON)
        sock.finish()
        assert not sock.closed
        ring.put(held_key())
        assert [a.body for a in split_responses(sock.sent)] == [FORMS["jwk"]]
        assert sock.closed

    with_server(ring, test)


def test_a_slowly_read_last_response_is_complete_before_the_close() -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect(room=10)
        feed(sock, LAST_KEY)
        assert not sock.closed
        sock.make_room()
        assert [a.body for a in split_responses(sock.sent)] == [FORMS["jwk"]]
        assert sock.closed
        assert server.counters.connections["api"] == 0

    with_server(ring_with(held_key()), test)


def test_requests_after_the_last_are_dropped() -> None:
    def test(server: InMemoryServer) -> None:
        connection, sock = server.connect(room=10)
        feed(sock, KEY + KEY)
        connection.close()
        assert not sock.closed
        assert len(connection._reader) == 0

    with_server(ring_with(held_key()), test)


def test_a_peer_that_does_not_read_is_evicted_at_once() -> None:
    def test(server: InMemoryServer) -> None:
        stalled = [server.connect(room=10)[1] for _ in range(2)]
        for sock in stalled:
            feed(sock, KEY)
        _, other = server.connect(peer=OTHER)
        feed(other, get("/healthz"))
        assert [a.status for a in split_responses(other.sent)] == [200]
        assert [sock.closed for sock in stalled].count(True) == 1
        assert server.counters.in_flight["api"] == 1

    with_server(ring_with(held_key()), test, limits=Limits(connections=2))


def test_a_stopping_listener_aborts_peers_that_do_not_read() -> None:
    async def run() -> None:
        server = InMemoryServer(ring_with(held_key()))
        _, sock = server.connect(room=10)
        feed(sock, KEY)
        await server.listener.close(0)
        assert sock.closed
        assert server.counters.in_flight["api"] == 0
        assert server.counters.connections["api"] == 0
        await server.close()

    asyncio.run(run())


def test_a_closed_listener_has_no_tick() -> None:
    async def run() -> None:
        server = InMemoryServer(ring_with())
        server.connect()
        assert len(server.loop.timers) == 1
        await server.listener.close(0)
        assert server.loop.timers == []
        await server.close()

    asyncio.run(run())
