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
    split_answers,
)
from support.serving_wire import Wire, feed, on_wire

from skragent.serving import Limits

KEY = get(f"/v1/keys/{ALIAS}")
LAST_KEY = get(f"/v1/keys/{ALIAS}", "Connection: close")
SOON = get(f"/v1/keys/{ALIAS}?wait=10")
OTHER = dataclasses.replace(MYSELF, uid=MYSELF.uid + 1)


def test_who_sends_nothing_more_is_answered_and_closed_when_the_key_comes() -> None:
    ring = ring_with(waiting=[ALIAS])

    def test(wire: Wire) -> None:
        _, sock = wire.connect()
        feed(sock, SOON)
        sock.finish()
        assert not sock.closed
        ring.put(held_key())
        assert [a.body for a in split_answers(sock.sent)] == [FORMS["jwk"]]
        assert sock.closed

    on_wire(ring, test)


def test_a_last_answer_that_is_taken_slowly_is_whole_and_ends_the_connection() -> None:
    def test(wire: Wire) -> None:
        _, sock = wire.connect(room=10)
        feed(sock, LAST_KEY)
        assert not sock.closed
        sock.make_room()
        assert [a.body for a in split_answers(sock.sent)] == [FORMS["jwk"]]
        assert sock.closed
        assert wire.counters.connections["api"] == 0

    on_wire(ring_with(held_key()), test)


def test_what_will_not_be_answered_is_not_kept() -> None:
    def test(wire: Wire) -> None:
        connection, sock = wire.connect(room=10)
        feed(sock, KEY + KEY)
        connection.end()
        assert not sock.closed
        assert len(connection._inbox) == 0

    on_wire(ring_with(held_key()), test)


def test_who_does_not_take_an_answer_gives_way_at_once() -> None:
    def test(wire: Wire) -> None:
        stalled = [wire.connect(room=10)[1] for _ in range(2)]
        for sock in stalled:
            feed(sock, KEY)
        _, other = wire.connect(peer=OTHER)
        feed(other, get("/healthz"))
        assert [a.status for a in split_answers(other.sent)] == [200]
        assert [sock.closed for sock in stalled].count(True) == 1
        assert wire.counters.in_flight["api"] == 1

    on_wire(ring_with(held_key()), test, limits=Limits(connections=2))


def test_a_listener_that_ends_cuts_who_does_not_take_an_answer() -> None:
    async def run() -> None:
        wire = Wire(ring_with(held_key()))
        _, sock = wire.connect(room=10)
        feed(sock, KEY)
        await wire.listener.close(0)
        assert sock.closed
        assert wire.counters.in_flight["api"] == 0
        assert wire.counters.connections["api"] == 0
        await wire.close()

    asyncio.run(run())


def test_a_listener_that_ended_counts_no_seconds() -> None:
    async def run() -> None:
        wire = Wire(ring_with())
        wire.connect()
        assert len(wire.loop.timers) == 1
        await wire.listener.close(0)
        assert wire.loop.timers == []
        await wire.close()

    asyncio.run(run())
