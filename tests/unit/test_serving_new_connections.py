"""Requests on new connections, and their responses from the cache."""

from __future__ import annotations

import dataclasses

import pytest
from support.serving import (
    ALIAS,
    FORMS,
    MYSELF,
    NEXT_VERSION,
    everybody_in,
    get,
    held_key,
    ring_with,
    split_responses,
)
from support.serving_in_memory import (
    InMemoryServer,
    count_cached,
    count_handled,
    feed,
    with_server,
)

from skragent.keyring import KeyState
from skragent.serving import Access, Limits
from skragent.serving.access import Rule

LAST_KEY = get(f"/v1/keys/{ALIAS}", "Connection: close")
LAST_OPENAPI = get("/v1/openapi.json", "Connection: close")  # lasts for long


def test_a_request_on_a_new_connection_is_served() -> None:
    def test(server: InMemoryServer) -> None:
        for _ in range(3):
            sock = server.visit(LAST_KEY)
            (response,) = split_responses(sock.sent)
            assert (response.status, response.body) == (200, FORMS["jwk"])
            assert response.headers["Connection"] == "close"
            assert sock.closed
        assert server.counters.requests["api", "get", "ok"].value == 3
        assert server.counters.connections["api"] == 0

    with_server(ring_with(held_key()), test)


def test_an_incomplete_request_on_a_new_connection_is_completed() -> None:
    def test(server: InMemoryServer) -> None:
        server.visit(LAST_KEY)
        sock = server.visit(LAST_KEY[:30])
        assert not sock.closed
        feed(sock, LAST_KEY[30:])
        assert [a.status for a in split_responses(sock.sent)] == [200]

    with_server(ring_with(held_key()), test)


def test_a_cached_response_is_not_sent_after_a_rotation() -> None:
    ring = ring_with(held_key())

    def test(server: InMemoryServer) -> None:
        server.visit(LAST_KEY)
        ring.put(held_key(version=NEXT_VERSION, forms={"jwk": b"{}"}))
        (response,) = split_responses(server.visit(LAST_KEY).sent)
        assert response.body == b"{}"
        ring.drop(ALIAS, KeyState.DENIED)
        (response,) = split_responses(server.visit(LAST_KEY).sent)
        assert response.status == 503

    with_server(ring, test)


def test_a_cached_response_is_not_sent_to_another_caller() -> None:
    def test(server: InMemoryServer) -> None:
        server.visit(LAST_KEY)
        for other in (
            dataclasses.replace(MYSELF, uid=MYSELF.uid + 1),
            dataclasses.replace(MYSELF, gid=MYSELF.gid + 1),
            dataclasses.replace(MYSELF, groups=frozenset({54321})),
            dataclasses.replace(MYSELF, unit="other.service"),
        ):
            responses = server.listener.admission.quotas.of(MYSELF.uid).responses
            assert responses.get((MYSELF.identity, LAST_KEY)) is not None
            assert responses.get((other.identity, LAST_KEY)) is None
        sock = server.visit(LAST_KEY, dataclasses.replace(MYSELF, uid=MYSELF.uid + 1))
        assert [a.status for a in split_responses(sock.sent)] == [404]

    with_server(ring_with(held_key()), test)


def test_a_cached_response_is_not_sent_after_a_change_of_rules() -> None:
    def test(server: InMemoryServer) -> None:
        server.visit(LAST_KEY)
        server.api.change_access(Access({}))
        assert [a.status for a in split_responses(server.visit(LAST_KEY).sent)] == [404]

    with_server(ring_with(held_key()), test)


def test_requests_on_new_connections_are_limited() -> None:
    def test(server: InMemoryServer) -> None:
        statuses = [
            split_responses(server.visit(LAST_KEY).sent)[0].status for _ in range(3)
        ]
        assert statuses == [200, 200, 429]

    with_server(
        ring_with(held_key()), test, limits=Limits(requests_per_second_per_uid=2)
    )


def test_a_repeated_request_reaches_the_handler_once_per_second() -> None:
    def test(server: InMemoryServer) -> None:
        handled = count_handled(server)
        for _ in range(3):
            server.visit(LAST_OPENAPI)
        assert len(handled) == 1
        server.pass_seconds(1)
        for _ in range(3):
            assert split_responses(server.visit(LAST_OPENAPI).sent)[0].status == 200
        assert len(handled) == 2

    with_server(ring_with(), test)


def test_the_response_cache_is_bounded() -> None:
    def test(server: InMemoryServer) -> None:
        for number in range(300):
            server.visit(get(f"/v1/keys/{ALIAS}", f"X: {number}", "Connection: close"))
        assert count_cached(server) == 256

    with_server(ring_with(held_key()), test)


@pytest.mark.parametrize(("size", "is_cached"), [(1024, True), (1025, False)])
def test_responses_to_long_requests_are_not_cached(
    size: int, *, is_cached: bool
) -> None:
    def test(server: InMemoryServer) -> None:
        rest = size - len(get(f"/v1/keys/{ALIAS}", "X: "))
        request = get(f"/v1/keys/{ALIAS}", "X: " + "x" * rest)
        assert len(request) == size
        server.visit(request)
        assert count_cached(server) == is_cached

    with_server(ring_with(held_key()), test)


def test_a_slowly_read_cached_response_is_complete() -> None:
    def test(server: InMemoryServer) -> None:
        server.visit(LAST_KEY)
        sock = server.visit(LAST_KEY, room=10)
        assert not sock.closed
        assert server.counters.in_flight["api"] == 1
        sock.make_room()
        (response,) = split_responses(sock.sent)
        assert (response.status, response.body) == (200, FORMS["jwk"])
        assert sock.closed
        assert server.counters.in_flight["api"] == 0

    with_server(ring_with(held_key()), test)


def test_a_cached_response_of_a_pinned_caller_is_not_sent_to_another() -> None:
    rule = Rule(unit="app.service")
    pinned = dataclasses.replace(MYSELF, unit="app.service", is_pinned=True)
    guessed = dataclasses.replace(pinned, is_pinned=False)

    def test(server: InMemoryServer) -> None:
        statuses = [
            split_responses(server.visit(LAST_KEY, peer).sent)[0].status
            for peer in (pinned, pinned, guessed, pinned)
        ]
        assert statuses == [200, 200, 404, 200]

    ring = ring_with(held_key())
    with_server(ring, test, access=everybody_in(ring, rule))
