"""One HTTP connection: states, order, limits, time, and the response cache."""

from __future__ import annotations

import re
from http import HTTPStatus

import pytest
from support.serving import (
    ALIAS,
    FORMS,
    NEXT_VERSION,
    get,
    held_key,
    ring_with,
    split_responses,
)
from support.serving_in_memory import InMemoryServer, feed, with_server

from skragent.keyring import KeyState
from skragent.serving import Access, Limits
from skragent.serving.admission import Caller
from skragent.serving.http.connection import TRANSITIONS, Connection, State
from skragent.serving.http.request import Request
from skragent.serving.http.response import Response
from skragent.serving.peers import Peer

KEY = get(f"/v1/keys/{ALIAS}")
LAST_KEY = get(f"/v1/keys/{ALIAS}", "Connection: close")
HEAD = KEY.replace(b"GET", b"HEAD", 1)
PEM = get(f"/v1/keys/{ALIAS}", "Accept: application/x-pem-file")
LIMITS = Limits(
    head_bytes=200,
    connections=3,
    connections_per_uid=2,
    head_timeout_seconds=5,
    idle_timeout_seconds=60,
    send_timeout_seconds=10,
)


def test_a_key_is_served() -> None:
    def test(server: InMemoryServer) -> None:
        _, transport = server.connect()
        feed(transport, KEY)
        (response,) = split_responses(transport.sent)
        assert (response.status, response.body) == (200, FORMS["jwk"])
        assert not transport.closed

    with_server(ring_with(held_key()), test)


def test_pipelined_requests_are_served_in_order() -> None:
    def test(server: InMemoryServer) -> None:
        _, transport = server.connect()
        feed(transport, KEY + get("/nothing") + PEM + KEY)
        responses = split_responses(transport.sent)
        assert [a.status for a in responses] == [200, 404, 200, 200]
        assert [responses[i].body for i in (0, 2, 3)] == [
            FORMS["jwk"],
            FORMS["pem"],
            FORMS["jwk"],
        ]

    with_server(ring_with(held_key()), test)


def test_a_repeated_request_is_served_again() -> None:
    def test(server: InMemoryServer) -> None:
        _, transport = server.connect()
        for _ in range(3):
            feed(transport, KEY)
        assert [a.body for a in split_responses(transport.sent)] == [FORMS["jwk"]] * 3
        assert server.counters.requests["api", "get", "ok"].value == 3

    with_server(ring_with(held_key()), test)


def test_a_repeated_request_gets_the_new_key_after_a_rotation() -> None:
    ring = ring_with(held_key())

    def test(server: InMemoryServer) -> None:
        _, transport = server.connect()
        feed(transport, KEY)
        ring.put(held_key(version=NEXT_VERSION, forms={"jwk": b"{}"}))
        feed(transport, KEY)
        old, new = split_responses(transport.sent)
        assert old.body == FORMS["jwk"]
        assert (new.body, new.headers["ETag"]) == (b"{}", f'"{NEXT_VERSION}"')

    with_server(ring, test)


def test_a_repeated_request_gets_no_key_after_a_drop() -> None:
    ring = ring_with(held_key())

    def test(server: InMemoryServer) -> None:
        _, transport = server.connect()
        feed(transport, KEY)
        ring.drop(ALIAS, KeyState.DENIED)
        feed(transport, KEY)
        assert [a.status for a in split_responses(transport.sent)] == [200, 503]

    with_server(ring, test)


def test_a_repeated_request_is_denied_after_a_change_of_rules() -> None:
    def test(server: InMemoryServer) -> None:
        _, transport = server.connect()
        feed(transport, KEY)
        server.api.change_access(Access({}))
        feed(transport, KEY)
        assert [a.status for a in split_responses(transport.sent)] == [200, 404]

    with_server(ring_with(held_key()), test)


def test_cached_bytes_inside_of_a_body_are_not_a_request() -> None:
    def test(server: InMemoryServer) -> None:
        _, transport = server.connect()
        feed(transport, KEY)
        feed(transport, b"GET /nothing HTTP/1.1\r\nHost: x\r\nX: ")
        feed(transport, KEY)
        first, second = split_responses(transport.sent)
        assert (first.status, second.status) == (200, 400)  # Host is there twice
        assert transport.closed

    with_server(ring_with(held_key()), test)


def test_a_cached_request_with_another_behind_it_serves_both() -> None:
    def test(server: InMemoryServer) -> None:
        _, transport = server.connect()
        feed(transport, KEY)
        feed(transport, KEY + PEM)
        bodies = [a.body for a in split_responses(transport.sent)]
        assert bodies == [FORMS["jwk"], FORMS["jwk"], FORMS["pem"]]

    with_server(ring_with(held_key()), test)


def test_empty_lines_before_a_request_are_ignored() -> None:
    def test(server: InMemoryServer) -> None:
        _, transport = server.connect()
        feed(transport, b"\r\n\r")
        feed(transport, b"\n" + KEY)
        assert [a.status for a in split_responses(transport.sent)] == [200]

    with_server(ring_with(held_key()), test)


@pytest.mark.parametrize("count", [2, 3])
def test_several_empty_lines_are_ignored(count: int) -> None:
    def test(server: InMemoryServer) -> None:
        _, transport = server.connect()
        feed(transport, b"\r\n" * count + KEY)
        assert [a.status for a in split_responses(transport.sent)] == [200]

    with_server(ring_with(held_key()), test)


def test_a_malformed_request_gets_one_error_and_a_close() -> None:
    def test(server: InMemoryServer) -> None:
        _, transport = server.connect()
        feed(transport, b"nonsense\r\n\r\n" + KEY)
        feed(transport, KEY)
        (response,) = split_responses(transport.sent)
        assert (response.status, response.code) == (400, "serve.bad_request")
        assert response.headers["Connection"] == "close"
        assert response.headers["Content-Type"] == "application/problem+json"
        assert transport.closed

    with_server(ring_with(held_key()), test)


def test_a_body_with_a_request_inside_is_a_body() -> None:
    def test(server: InMemoryServer) -> None:
        _, transport = server.connect()
        head = get("/v1/keys", f"Content-Length: {len(KEY)}")
        feed(transport, head + KEY)
        (response,) = split_responses(transport.sent)
        assert (response.status, response.code) == (400, "serve.body")
        assert not transport.closed

    with_server(ring_with(held_key()), test)


def test_connection_close_is_obeyed() -> None:
    def test(server: InMemoryServer) -> None:
        _, transport = server.connect()
        feed(transport, get(f"/v1/keys/{ALIAS}", "Connection: close") + KEY)
        (response,) = split_responses(transport.sent)
        assert (response.status, response.body) == (200, FORMS["jwk"])
        assert response.headers["Connection"] == "close"
        assert transport.closed

    with_server(ring_with(held_key()), test)


def padded(length: int) -> bytes:
    """Write a request of so many bytes."""
    return get("/healthz", "X: " + "a" * (length - len(get("/healthz", "X: "))))


@pytest.mark.parametrize(("length", "status"), [(200, 200), (201, 431)])
def test_a_head_has_a_limit(length: int, status: int) -> None:
    def test(server: InMemoryServer) -> None:
        _, transport = server.connect()
        feed(transport, padded(length))
        assert [a.status for a in split_responses(transport.sent)] == [status]

    with_server(ring_with(), test, limits=LIMITS)


@pytest.mark.parametrize(("length", "status"), [(200, 200), (201, 431)])
def test_a_head_in_pieces_has_the_same_limit(length: int, status: int) -> None:
    def test(server: InMemoryServer) -> None:
        _, transport = server.connect()
        for byte in padded(length):
            feed(transport, bytes([byte]))
        assert [a.status for a in split_responses(transport.sent)] == [status]

    with_server(ring_with(), test, limits=LIMITS)


def test_an_unexpected_error_closes_only_its_connection() -> None:
    def broken(request: Request, peer: Peer) -> Response:
        raise ZeroDivisionError(request.path, peer)

    def test(server: InMemoryServer) -> None:
        _, takes = server.connect()
        feed(takes, KEY)
        _, transport = server.connect()
        server.listener._handle = broken
        feed(transport, PEM)
        (response,) = split_responses(transport.sent)
        assert (response.status, response.code) == (500, "internal")
        assert transport.closed
        feed(takes, KEY)
        assert [a.status for a in split_responses(takes.sent)] == [200, 200]

    with_server(ring_with(held_key()), test)


def test_a_connection_does_not_read_while_it_sends() -> None:
    def test(server: InMemoryServer) -> None:
        _, transport = server.connect(room=10)
        feed(transport, KEY + PEM)
        assert (transport.reads, server.counters.in_flight["api"]) == (False, 1)
        assert len(transport.sent) == 10
        transport.make_room()
        assert (transport.reads, server.counters.in_flight["api"]) == (True, 0)
        bodies = [a.body for a in split_responses(transport.sent)]
        assert bodies == [FORMS["jwk"], FORMS["pem"]]

    with_server(ring_with(held_key()), test)


def test_a_slow_reader_gets_the_complete_key_that_it_began_to_read() -> None:
    ring = ring_with(held_key())

    def test(server: InMemoryServer) -> None:
        _, transport = server.connect(room=10)
        feed(transport, KEY)
        ring.put(held_key(version=NEXT_VERSION, forms={"jwk": b"{}"}))
        transport.make_room()
        (response,) = split_responses(transport.sent)
        assert response.body == FORMS["jwk"]

    with_server(ring, test)


def test_a_slow_reader_is_aborted_at_the_deadline() -> None:
    def test(server: InMemoryServer) -> None:
        _, transport = server.connect(room=10)
        feed(transport, KEY)
        server.pass_seconds(10)
        assert not transport.closed
        server.pass_seconds(1)
        assert transport.closed
        assert server.counters.in_flight["api"] == 0

    with_server(ring_with(held_key()), test, limits=LIMITS)


def test_a_reader_of_single_bytes_is_aborted_at_the_deadline() -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect(room=10)
        feed(sock, KEY)
        for _ in range(5):
            server.pass_seconds(2)
            sock.room += 1
            server.loop.writers[sock.fileno()]()
        assert len(sock.sent) == 15
        server.pass_seconds(1)
        assert sock.closed

    with_server(ring_with(held_key()), test, limits=LIMITS)


def test_a_slow_reader_of_a_last_response_is_aborted() -> None:
    def test(server: InMemoryServer) -> None:
        _, transport = server.connect(room=10)
        feed(transport, b"nonsense\r\n\r\n")
        server.pass_seconds(10)
        assert not transport.closed
        server.pass_seconds(1)
        assert transport.closed

    with_server(ring_with(), test, limits=LIMITS)


def test_a_slow_request_times_out() -> None:
    def test(server: InMemoryServer) -> None:
        _, transport = server.connect()
        for byte in KEY[:6]:
            assert not transport.closed
            feed(transport, bytes([byte]))
            server.pass_seconds(1)
        (response,) = split_responses(transport.sent)
        assert (response.status, response.code) == (408, "serve.timeout")
        assert transport.closed

    with_server(ring_with(held_key()), test, limits=LIMITS)


def test_an_idle_connection_closes_at_the_deadline() -> None:
    def test(server: InMemoryServer) -> None:
        _, transport = server.connect()
        feed(transport, KEY)
        server.pass_seconds(30)
        feed(transport, KEY)
        server.pass_seconds(60)
        assert not transport.closed
        server.pass_seconds(1)
        assert transport.closed

    with_server(ring_with(held_key()), test, limits=LIMITS)


def test_connections_of_one_user_are_limited() -> None:
    def test(server: InMemoryServer) -> None:
        first, _ = server.connect()
        _, second = server.connect()
        _, third = server.connect()
        assert not second.closed
        (response,) = split_responses(third.sent)
        assert (response.status, response.code) == (503, "serve.connections")
        assert third.closed
        assert server.counters.denied["connections"] == 1
        first.abort()
        _, fourth = server.connect()
        assert not fourth.closed

    with_server(ring_with(), test, limits=LIMITS)


@pytest.mark.parametrize(("limit", "refused"), [(2, False), (1, True)])
def test_connections_in_total_are_limited(limit: int, *, refused: bool) -> None:
    def test(server: InMemoryServer) -> None:
        server.connect()
        _, second = server.connect()
        assert second.closed is refused

    with_server(ring_with(), test, limits=Limits(connections=limit))


def test_a_response_under_way_is_completed_at_the_stop() -> None:
    def test(server: InMemoryServer) -> None:
        idle, idle_transport = server.connect()
        taking, transport = server.connect(room=10)
        feed(transport, KEY + PEM)
        idle.close()
        taking.close()
        assert idle_transport.closed
        assert not transport.closed
        transport.make_room()
        (response,) = split_responses(transport.sent)
        assert response.body == FORMS["jwk"]

    with_server(ring_with(held_key()), test)


def test_the_age_of_a_key_grows() -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, KEY)
        server.pass_seconds(5)
        feed(sock, KEY)
        first, second = (int(a.headers["Age"]) for a in split_responses(sock.sent))
        assert second - first == 5
        visited = split_responses(server.visit(LAST_KEY).sent)[0]
        assert int(visited.headers["Age"]) == second

    with_server(ring_with(held_key()), test)


def test_the_response_of_head_is_not_cached() -> None:
    def test(server: InMemoryServer) -> None:
        cell = server.counters.requests_cell("api", "get", "ok")
        kept = Response(
            HTTPStatus.OK, {"ETag": "1"}, b"1", counter=cell, is_cacheable=True
        )
        server.listener._handle = lambda _request, _peer: kept
        _, sock = server.connect()
        feed(sock, HEAD)
        kept.invalidate()
        kept = Response(
            HTTPStatus.OK, {"ETag": "2"}, b"2", counter=cell, is_cacheable=True
        )
        feed(sock, HEAD)
        assert re.findall(rb"ETag: (.)", sock.sent) == [b"1", b"2"]

    with_server(ring_with(), test)


def test_a_failed_long_poll_closes_only_its_connection() -> None:
    ring = ring_with(waiting=[ALIAS])

    def broken(must: object) -> Response | None:
        raise ZeroDivisionError(must)

    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, get(f"/v1/keys/{ALIAS}?wait=10"))
        (long_poll,) = server.api._long_polls._groups[ALIAS]
        long_poll._respond = broken
        ring.put(held_key())
        assert sock.closed
        assert server.counters.in_flight["api"] == 0

    with_server(ring, test)


def test_every_state_can_reach_closed_and_none_follows_it() -> None:
    for state in set(State) - {State.CLOSED}:
        assert State.CLOSED in TRANSITIONS[state]
    assert TRANSITIONS[State.CLOSED] == frozenset()


def test_a_transition_outside_of_the_table_is_a_bug() -> None:
    def test(server: InMemoryServer) -> None:
        connection, _ = server.connect()
        connection.abort()
        with pytest.raises(RuntimeError):
            connection._become(State.IDLE)

    with_server(ring_with(held_key()), test)


def state_of(connection: Connection[Caller]) -> State:
    return connection.state


def test_a_connection_passes_through_its_states() -> None:
    def test(server: InMemoryServer) -> None:
        connection, sock = server.connect(room=10)
        assert state_of(connection) is State.IDLE
        feed(sock, KEY)
        assert state_of(connection) is State.SENDING
        sock.make_room()
        assert state_of(connection) is State.IDLE
        feed(sock, get("/v1/keys/later?wait=60"))
        assert state_of(connection) is State.LONG_POLLING
        sock.room = 0
        connection.close()
        assert state_of(connection) is State.CLOSING
        sock.make_room()
        assert state_of(connection) is State.CLOSED

    with_server(ring_with(held_key(), waiting=["later"]), test)


def test_a_connection_without_quota_is_queued_until_the_next_second() -> None:
    def test(server: InMemoryServer) -> None:
        connection, sock = server.connect()
        feed(sock, KEY * 4)
        assert state_of(connection) is State.QUEUED
        server.pass_seconds(1)
        assert state_of(connection) is State.IDLE

    limits = Limits(requests_per_second_per_uid=2)
    with_server(ring_with(held_key()), test, limits=limits)
