"""The limits of a socket: at the limit, and one more."""

from __future__ import annotations

import pytest
from support.serving import ALIAS, MYSELF, get, held_key, ring_with, split_responses
from support.serving_in_memory import InMemoryServer, feed, with_server

from skragent.serving import Limits
from skragent.serving.peers import Peer

KEY = get(f"/v1/keys/{ALIAS}")
WAITING = get("/v1/keys/later?wait=60")
OTHER = Peer(uid=MYSELF.uid + 1, gid=1, pid=1)


def with_body(size: int) -> bytes:
    return get("/v1/keys", f"Content-Length: {size}") + b"x" * size


@pytest.mark.parametrize(("size", "status"), [(100, 400), (101, 413)])
def test_a_body_has_a_limit(size: int, status: int) -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, with_body(size))
        (response,) = split_responses(sock.sent)
        assert (response.status, response.code) == (status, "serve.body")

    with_server(ring_with(), test, limits=Limits(body_bytes=100))


def test_a_body_too_large_is_rejected_before_it_is_read() -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, get("/v1/keys", "Content-Length: 999999999"))
        assert [a.status for a in split_responses(sock.sent)] == [413]
        assert sock.closed

    with_server(ring_with(), test)


def test_what_follows_a_body_is_the_next_request() -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        for byte in with_body(30) + get("/healthz"):
            feed(sock, bytes([byte]))
        assert [a.status for a in split_responses(sock.sent)] == [400, 200]

    with_server(ring_with(), test)


def test_a_missing_body_times_out() -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, with_body(30)[:-1])
        server.pass_seconds(6)
        (response,) = split_responses(sock.sent)
        assert (response.status, response.code) == (408, "serve.timeout")

    with_server(ring_with(), test)


def test_responses_to_one_user_are_limited_per_second() -> None:
    def test(server: InMemoryServer) -> None:
        _, first = server.connect()
        _, second = server.connect()
        feed(first, KEY)
        feed(first, KEY)
        feed(second, KEY)
        assert [a.status for a in split_responses(first.sent + second.sent)] == [
            200
        ] * 3
        first.sent = b""
        feed(first, KEY)
        (response,) = split_responses(first.sent)
        assert (response.status, response.code) == (429, "serve.rate")
        assert response.headers["Retry-After"] == "1"
        assert server.counters.denied["rate"] == 1

    with_server(
        ring_with(held_key()), test, limits=Limits(requests_per_second_per_uid=3)
    )


def test_a_throttled_user_is_served_in_the_next_second() -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, KEY + KEY)
        server.pass_seconds(1)
        feed(sock, KEY)
        assert [a.status for a in split_responses(sock.sent)] == [200, 429, 200]

    with_server(
        ring_with(held_key()), test, limits=Limits(requests_per_second_per_uid=1)
    )


def test_unused_quota_is_not_saved() -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        server.pass_seconds(10)
        feed(sock, KEY * 5)
        assert [a.status for a in split_responses(sock.sent)] == [200, 200, 429]

    with_server(
        ring_with(held_key()), test, limits=Limits(requests_per_second_per_uid=2)
    )


def test_a_throttled_new_connection_is_not_read() -> None:
    def test(server: InMemoryServer) -> None:
        sock = server.visit(KEY * 3)
        assert [a.status for a in split_responses(sock.sent)] == [200, 429]
        assert not sock.reads

    with_server(
        ring_with(held_key()), test, limits=Limits(requests_per_second_per_uid=1)
    )


def test_a_throttled_user_does_not_throttle_other_users() -> None:
    def test(server: InMemoryServer) -> None:
        _, mine = server.connect()
        _, others = server.connect(peer=OTHER)
        feed(mine, KEY + KEY)
        feed(others, get("/healthz"))
        assert [a.status for a in split_responses(others.sent)] == [200]

    with_server(
        ring_with(held_key()), test, limits=Limits(requests_per_second_per_uid=1)
    )


def test_a_new_connection_brings_no_new_quota() -> None:
    def test(server: InMemoryServer) -> None:
        first, sock = server.connect()
        feed(sock, KEY)
        first.abort()
        _, again = server.connect()
        feed(again, KEY)
        assert [a.status for a in split_responses(again.sent)] == [429]

    with_server(
        ring_with(held_key()), test, limits=Limits(requests_per_second_per_uid=1)
    )


def test_quotas_of_users_without_connections_are_dropped() -> None:
    def test(server: InMemoryServer) -> None:
        for uid in range(5):
            connection, _ = server.connect(peer=Peer(uid=uid, gid=0, pid=1))
            connection.abort()
        assert len(server.listener.admission.quotas) == 5
        server.pass_seconds(1)
        assert len(server.listener.admission.quotas) == 0

    with_server(ring_with(), test)


def test_requests_in_flight_are_limited() -> None:
    def test(server: InMemoryServer) -> None:
        stalled = [server.connect(room=10)[1] for _ in range(2)]
        _, third = server.connect()
        feed(third, KEY)
        feed(stalled[0], KEY)
        feed(third, KEY)
        feed(stalled[1], KEY)
        feed(third, KEY)  # one too many; on the hot path
        feed(third, get("/healthz"))
        statuses = [a.status for a in split_responses(third.sent)]
        assert statuses == [200, 200, 503, 503]
        refused = split_responses(third.sent)[2]
        assert (refused.code, refused.headers["Retry-After"]) == ("serve.busy", "1")
        assert server.counters.denied["busy"] == 2
        stalled[0].make_room()
        feed(third, KEY)
        assert [a.status for a in split_responses(third.sent)][-1] == 200

    with_server(ring_with(held_key()), test, limits=Limits(requests_in_flight=2))


def test_long_polls_are_limited() -> None:
    def test(server: InMemoryServer) -> None:
        socks = [server.connect()[1] for _ in range(3)]
        for sock in socks:
            feed(sock, WAITING)
        assert [sock.sent for sock in socks[:2]] == [b"", b""]
        (response,) = split_responses(socks[2].sent)
        assert (response.status, response.code) == (503, "serve.busy")
        assert response.headers["Retry-After"] == "1"
        assert server.counters.denied["busy"] == 1

    with_server(ring_with(waiting=["later"]), test, limits=Limits(long_polls=2))


def test_an_ended_long_poll_frees_its_place() -> None:
    def test(server: InMemoryServer) -> None:
        first, _ = server.connect()
        feed(server._sockets[0], WAITING)
        first.abort()
        _, second = server.connect()
        feed(second, WAITING)
        assert second.sent == b""

    with_server(ring_with(waiting=["later"]), test, limits=Limits(long_polls=1))


def test_input_during_a_long_poll_is_limited() -> None:
    limits = Limits(head_bytes=300, body_bytes=0)

    def test(server: InMemoryServer) -> None:
        connection, sock = server.connect()
        feed(sock, WAITING)
        for _ in range(100):
            feed(sock, KEY)
        assert len(connection._reader) <= 300 + len(KEY)
        assert not sock.reads

    with_server(ring_with(waiting=["later"]), test, limits=limits)


def test_a_connection_above_the_limit_gets_a_retry_after() -> None:
    def test(server: InMemoryServer) -> None:
        server.connect()
        _, second = server.connect()
        (response,) = split_responses(second.sent)
        assert (response.code, response.headers["Retry-After"]) == (
            "serve.connections",
            "1",
        )

    with_server(ring_with(), test, limits=Limits(connections=1))
