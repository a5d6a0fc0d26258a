"""Who is taken in, as whom, and on whose account."""

from __future__ import annotations

import dataclasses
import logging
import socket
from typing import TYPE_CHECKING

from support.deadlines import DEADLINE_SECONDS
from support.serving import (
    ALIAS,
    FORMS,
    MYSELF,
    get,
    held_key,
    ring_with,
    split_answers,
)
from support.serving_wire import Wire, on_wire

from skragent.serving import Access, Limits, listener
from skragent.serving.access import Rule
from skragent.serving.accounts import STRANGERS

if TYPE_CHECKING:
    import pytest

    from skragent.serving.peers import Peer

LAST_KEY = get(f"/v1/keys/{ALIAS}", "Connection: close")
LAST_HEALTH = get("/healthz", "Connection: close")
OTHER = dataclasses.replace(MYSELF, uid=MYSELF.uid + 1)


def accepted(wire: Wire, request: bytes) -> bytes:
    """Have a real connection with its request taken in; give what it was sent."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(request)
        wire.listener._accept(ours)
        assert ours.fileno() == -1, "it is open still"
        theirs.settimeout(DEADLINE_SECONDS)
        try:
            return theirs.recv(65536)
        except ConnectionResetError:  # its request was not even read
            return b""


def test_a_caller_of_whom_the_kernel_tells_nothing_is_not_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def tells_nothing(sock: socket.socket, **wanted: object) -> Peer:
        raise OSError(sock, wanted)

    def test(wire: Wire) -> None:
        assert split_answers(accepted(wire, LAST_HEALTH))[0].status == 200
        monkeypatch.setattr(listener, "identify", tells_nothing)
        assert accepted(wire, LAST_HEALTH) == b""
        assert wire.counters.connections["api"] == 0

    on_wire(ring_with(), test)


def test_the_unit_of_a_caller_is_asked_for_where_a_rule_names_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def in_a_unit(
        _sock: socket.socket, *, wants_unit: bool = False, gids: frozenset[int]
    ) -> Peer:
        assert gids == frozenset()
        unit = "web.service" if wants_unit else ""
        return dataclasses.replace(MYSELF, unit=unit, is_pinned=wants_unit)

    def test(wire: Wire) -> None:
        assert split_answers(accepted(wire, LAST_KEY))[0].status == 404
        wire.listener.wants_unit = True
        assert split_answers(accepted(wire, LAST_KEY))[0].body == FORMS["jwk"]

    monkeypatch.setattr(listener, "identify", in_a_unit)
    access = Access({ALIAS: (Rule(unit="web.service"),)})
    on_wire(ring_with(held_key()), test, access=access)


def test_callers_with_one_owner_share_what_one_user_may_have() -> None:
    def test(wire: Wire) -> None:
        wire.listener.owner_of = lambda _peer: STRANGERS
        _, first = wire.connect()
        _, second = wire.connect(peer=OTHER)
        assert not first.closed
        assert [a.code for a in split_answers(second.sent)] == ["serve.connections"]

    on_wire(ring_with(), test, limits=Limits(connections_per_uid=1))


def test_a_request_that_was_answered_before_is_refused_on_a_connection_too_many() -> (
    None
):
    def test(wire: Wire) -> None:
        assert split_answers(wire.visit(LAST_KEY).sent)[0].status == 200
        wire.connect()
        (answer,) = split_answers(wire.visit(LAST_KEY).sent)
        assert answer.status == 503
        assert answer.code == "serve.connections"

    on_wire(ring_with(held_key()), test, limits=Limits(connections_per_uid=1))


def test_refused_connections_are_told_of_once_a_second(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    def test(wire: Wire) -> None:
        wire.connect()
        for _ in range(3):
            wire.connect()
        assert len(caplog.records) == 1
        assert wire.counters.denied["connections"] == 3
        wire.pass_seconds(1)
        wire.connect()
        assert len(caplog.records) == 2

    on_wire(ring_with(), test, limits=Limits(connections_per_uid=1))
