"""Admission of connections: identity and quota."""

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
    split_responses,
)
from support.serving_in_memory import InMemoryServer, with_server

from skragent.serving import Access, Limits, listener
from skragent.serving.access import Rule
from skragent.serving.admission import SHARED

if TYPE_CHECKING:
    import pytest

    from skragent.serving.peers import Peer

LAST_KEY = get(f"/v1/keys/{ALIAS}", "Connection: close")
LAST_HEALTH = get("/healthz", "Connection: close")
OTHER = dataclasses.replace(MYSELF, uid=MYSELF.uid + 1)


def accepted(server: InMemoryServer, request: bytes) -> bytes:
    """Have a real connection with its request taken in; give what it was sent."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(request)
        server.listener._accept(ours)
        assert ours.fileno() == -1, "it is open still"
        theirs.settimeout(DEADLINE_SECONDS)
        try:
            return theirs.recv(65536)
        except ConnectionResetError:  # its request was not even read
            return b""


def test_an_unidentified_caller_is_not_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def tells_nothing(sock: socket.socket, **wanted: object) -> Peer:
        raise OSError(sock, wanted)

    def test(server: InMemoryServer) -> None:
        assert split_responses(accepted(server, LAST_HEALTH))[0].status == 200
        monkeypatch.setattr(listener, "identify", tells_nothing)
        assert accepted(server, LAST_HEALTH) == b""
        assert server.counters.connections["api"] == 0

    with_server(ring_with(), test)


def test_the_unit_of_a_caller_is_read_if_a_rule_has_a_unit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def in_a_unit(
        _sock: socket.socket, *, wants_unit: bool = False, gids: frozenset[int]
    ) -> Peer:
        assert gids == frozenset()
        unit = "web.service" if wants_unit else ""
        return dataclasses.replace(MYSELF, unit=unit, is_pinned=wants_unit)

    def test(server: InMemoryServer) -> None:
        assert split_responses(accepted(server, LAST_KEY))[0].status == 404
        server.listener.wants_unit = True
        assert split_responses(accepted(server, LAST_KEY))[0].body == FORMS["jwk"]

    monkeypatch.setattr(listener, "identify", in_a_unit)
    access = Access({ALIAS: (Rule(unit="web.service"),)})
    with_server(ring_with(held_key()), test, access=access)


def test_callers_with_one_owner_share_a_quota() -> None:
    def test(server: InMemoryServer) -> None:
        server.listener.owner_of = lambda _peer: SHARED
        _, first = server.connect()
        _, second = server.connect(peer=OTHER)
        assert not first.closed
        assert [a.code for a in split_responses(second.sent)] == ["serve.connections"]

    with_server(ring_with(), test, limits=Limits(connections_per_uid=1))


def test_a_cached_request_is_rejected_on_a_connection_above_the_limit() -> None:
    def test(server: InMemoryServer) -> None:
        assert split_responses(server.visit(LAST_KEY).sent)[0].status == 200
        server.connect()
        (response,) = split_responses(server.visit(LAST_KEY).sent)
        assert response.status == 503
        assert response.code == "serve.connections"

    with_server(ring_with(held_key()), test, limits=Limits(connections_per_uid=1))


def test_rejected_connections_are_logged_once_per_second(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    def test(server: InMemoryServer) -> None:
        server.connect()
        for _ in range(3):
            server.connect()
        assert len(caplog.records) == 1
        assert server.counters.denied["connections"] == 3
        server.pass_seconds(1)
        server.connect()
        assert len(caplog.records) == 2

    with_server(ring_with(), test, limits=Limits(connections_per_uid=1))
