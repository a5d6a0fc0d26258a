"""Requests that come with their connections, and are answered before one is made."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from support.serving import (
    ALIAS,
    FORMS,
    MYSELF,
    NEXT_VERSION,
    everybody_in,
    get,
    held_key,
    ring_with,
    split_answers,
)
from support.serving_wire import Wire, feed, on_wire

from skragent.keyring import KeyState
from skragent.serving import Access, Limits
from skragent.serving.access import Rule

if TYPE_CHECKING:
    from skragent.serving.answer import Answer
    from skragent.serving.park import Parked
    from skragent.serving.peers import Peer
    from skragent.serving.request import Request

LAST_KEY = get(f"/v1/keys/{ALIAS}", "Connection: close")
LAST_OPENAPI = get("/v1/openapi.json", "Connection: close")  # lasts for long


def test_a_request_that_comes_with_its_connection_is_answered() -> None:
    def test(wire: Wire) -> None:
        for _ in range(3):
            sock = wire.visit(LAST_KEY)
            (answer,) = split_answers(sock.sent)
            assert (answer.status, answer.body) == (200, FORMS["jwk"])
            assert answer.headers["Connection"] == "close"
            assert sock.closed
        assert wire.counters.requests["api", "get", "ok"].value == 3
        assert wire.counters.connections["api"] == 0

    on_wire(ring_with(held_key()), test)


def test_half_a_request_that_comes_with_its_connection_is_waited_for() -> None:
    def test(wire: Wire) -> None:
        wire.visit(LAST_KEY)
        sock = wire.visit(LAST_KEY[:30])
        assert not sock.closed
        feed(sock, LAST_KEY[30:])
        assert [a.status for a in split_answers(sock.sent)] == [200]

    on_wire(ring_with(held_key()), test)


def test_what_was_answered_before_is_not_answered_so_after_a_rotation() -> None:
    ring = ring_with(held_key())

    def test(wire: Wire) -> None:
        wire.visit(LAST_KEY)
        ring.put(held_key(version=NEXT_VERSION, forms={"jwk": b"{}"}))
        (answer,) = split_answers(wire.visit(LAST_KEY).sent)
        assert answer.body == b"{}"
        ring.drop(ALIAS, KeyState.DENIED)
        (answer,) = split_answers(wire.visit(LAST_KEY).sent)
        assert answer.status == 503

    on_wire(ring, test)


def test_what_was_answered_before_is_not_answered_so_to_another_caller() -> None:
    def test(wire: Wire) -> None:
        wire.visit(LAST_KEY)
        for other in (
            dataclasses.replace(MYSELF, uid=MYSELF.uid + 1),
            dataclasses.replace(MYSELF, gid=MYSELF.gid + 1),
            dataclasses.replace(MYSELF, groups=frozenset({54321})),
            dataclasses.replace(MYSELF, unit="other.service"),
        ):
            assert wire.listener._remembered.get((other.identity, LAST_KEY)) is None
        sock = wire.visit(LAST_KEY, dataclasses.replace(MYSELF, uid=MYSELF.uid + 1))
        assert [a.status for a in split_answers(sock.sent)] == [404]

    on_wire(ring_with(held_key()), test)


def test_what_was_answered_before_is_not_answered_so_under_other_rules() -> None:
    def test(wire: Wire) -> None:
        wire.visit(LAST_KEY)
        wire.api.change_access(Access({}))
        assert [a.status for a in split_answers(wire.visit(LAST_KEY).sent)] == [404]

    on_wire(ring_with(held_key()), test)


def test_requests_that_come_with_their_connections_are_bounded_too() -> None:
    def test(wire: Wire) -> None:
        statuses = [
            split_answers(wire.visit(LAST_KEY).sent)[0].status for _ in range(3)
        ]
        assert statuses == [200, 200, 429]

    on_wire(ring_with(held_key()), test, limits=Limits(answers_per_second_per_uid=2))


def count_decisions(wire: Wire) -> list[str]:
    """Note each request that is decided on, and not answered as before."""
    decided: list[str] = []
    handle = wire.listener._handle

    def noting(request: Request, peer: Peer) -> Answer | Parked:
        decided.append(request.path)
        return handle(request, peer)

    wire.listener._handle = noting
    return decided


def test_the_same_request_of_the_same_caller_is_decided_once_a_second() -> None:
    def test(wire: Wire) -> None:
        decided = count_decisions(wire)
        for _ in range(3):
            wire.visit(LAST_OPENAPI)
        assert len(decided) == 1
        wire.pass_seconds(1)
        for _ in range(3):
            assert split_answers(wire.visit(LAST_OPENAPI).sent)[0].status == 200
        assert len(decided) == 2

    on_wire(ring_with(), test)


def test_no_more_than_so_many_requests_are_remembered() -> None:
    def test(wire: Wire) -> None:
        for number in range(300):
            wire.visit(get(f"/v1/keys/{ALIAS}", f"X: {number}", "Connection: close"))
        assert len(wire.listener._remembered) == 256

    on_wire(ring_with(held_key()), test)


def test_an_answer_as_before_that_is_taken_slowly_is_whole() -> None:
    def test(wire: Wire) -> None:
        wire.visit(LAST_KEY)
        sock = wire.visit(LAST_KEY, room=10)
        assert not sock.closed
        assert wire.counters.in_flight["api"] == 1
        sock.make_room()
        (answer,) = split_answers(sock.sent)
        assert (answer.status, answer.body) == (200, FORMS["jwk"])
        assert sock.closed
        assert wire.counters.in_flight["api"] == 0

    on_wire(ring_with(held_key()), test)


def test_what_was_answered_a_pinned_caller_is_not_answered_so_to_a_guessed_one() -> (
    None
):
    rule = Rule(unit="app.service")
    pinned = dataclasses.replace(MYSELF, unit="app.service", is_pinned=True)
    guessed = dataclasses.replace(pinned, is_pinned=False)

    def test(wire: Wire) -> None:
        statuses = [
            split_answers(wire.visit(LAST_KEY, peer).sent)[0].status
            for peer in (pinned, pinned, guessed, pinned)
        ]
        assert statuses == [200, 200, 404, 200]

    ring = ring_with(held_key())
    on_wire(ring, test, access=everybody_in(ring, rule))
