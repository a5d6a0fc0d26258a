"""One user that takes everything, and other users that are still served."""

from __future__ import annotations

import pytest
from support.serving import ALIAS, MYSELF, get, held_key, ring_with, split_responses
from support.serving_in_memory import (
    FullSocket,
    InMemoryServer,
    count_handled,
    with_server,
)

from skragent.keyring import Keyring
from skragent.serving import Access, Limits
from skragent.serving.access import Rule
from skragent.serving.admission import QUANTUM, UNCACHED_COST
from skragent.serving.peers import Peer

KEY = get(f"/v1/keys/{ALIAS}")
SHORT = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
WAITING = get("/v1/keys/later?wait=60")
SLOW = QUANTUM // UNCACHED_COST  # answers of a turn that are not the same as before
OTHER = Peer(uid=MYSELF.uid + 1, gid=1, pid=1)
THIRD = Peer(uid=MYSELF.uid + 2, gid=1, pid=1)


def for_all(ring: Keyring) -> Access:
    rules = tuple(Rule(uid=peer.uid) for peer in (MYSELF, OTHER, THIRD))
    return Access({entry.alias: rules for entry in ring})


def responses(sock: FullSocket) -> list[int]:
    return [response.status for response in split_responses(sock.sent)]


def arrive(server: InMemoryServer, sock: FullSocket, data: bytes) -> None:
    """Let bytes arrive, and the loop look at them once: it does not go round."""
    sock._arrived += data
    if sock.reads:
        server.loop.readers[sock.fileno()]()


def test_other_users_are_served_between_many_requests_of_one_user() -> None:
    def test(server: InMemoryServer) -> None:
        _, many = server.connect()
        _, one = server.connect(peer=OTHER)
        arrive(server, many, SHORT * 300)
        assert len(responses(many)) == SLOW
        assert not many.reads
        arrive(server, one, SHORT)
        assert responses(one) == [200]
        server.loop.turn()
        assert len(responses(many)) == 2 * SLOW
        for _ in range(10):
            server.loop.turn()
        assert responses(many) == [200] * 300
        assert many.reads

    with_server(ring_with(), test)


def test_a_round_is_counted_for_the_user_and_not_for_the_connection() -> None:
    def test(server: InMemoryServer) -> None:
        _, first = server.connect()
        _, second = server.connect()
        arrive(server, first, SHORT * SLOW)
        assert len(responses(first)) == SLOW
        arrive(server, second, SHORT)
        assert responses(second) == []
        server.loop.turn()
        arrive(server, second, b"")  # it is readable still
        assert responses(second) == [200]

    with_server(ring_with(), test)


def test_cached_responses_are_counted_in_rounds_as_well() -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        for _ in range(QUANTUM + 10):
            arrive(server, sock, KEY)
        assert (
            len(responses(sock)) == QUANTUM - UNCACHED_COST + 1
        )  # the first one was not the same
        server.loop.turn()
        arrive(server, sock, b"")
        assert len(responses(sock)) == QUANTUM + 10

    with_server(ring_with(held_key()), test)


def test_a_cached_response_after_a_round_costs_one() -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        in_a_turn = QUANTUM - UNCACHED_COST + 1  # the first one was not the same
        for _ in range(in_a_turn + 1):
            arrive(server, sock, KEY)
        assert len(responses(sock)) == in_a_turn
        server.loop.turn()
        arrive(server, sock, b"")
        for _ in range(QUANTUM - 1):
            arrive(server, sock, KEY)
        assert len(responses(sock)) == in_a_turn + QUANTUM

    with_server(ring_with(held_key()), test)


def test_long_requests_cost_more_of_a_round() -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        long = SHORT[:-2] + b"X: " + b"y" * 7000 + b"\r\n\r\n"
        for _ in range(10):
            arrive(server, sock, long)
        assert len(responses(sock)) == 5
        for _ in range(10):
            server.loop.turn()
            arrive(server, sock, b"")
        assert responses(sock) == [200] * 10

    with_server(ring_with(), test)


def test_the_rest_of_a_round_is_not_lost() -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        sock.arrive(SHORT * 300)
        assert responses(sock) == [200] * 200 + [429]

    with_server(ring_with(), test, limits=Limits(requests_per_second_per_uid=200))


def test_a_throttled_connection_gets_one_429_and_waits_for_the_next_second() -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        sock.arrive(SHORT * 5)
        sock.arrive(SHORT)
        assert responses(sock) == [200, 200, 429]
        assert not sock.reads
        server.pass_seconds(1)
        assert responses(sock) == [200, 200, 429, 200, 200]
        sock.arrive(b"")
        assert responses(sock)[5:] == [429]
        server.pass_seconds(1)
        assert sock.reads

    with_server(ring_with(), test, limits=Limits(requests_per_second_per_uid=2))


def test_a_throttled_connection_may_end() -> None:
    def test(server: InMemoryServer) -> None:
        connection, sock = server.connect()
        sock.arrive(SHORT * 5)
        connection.abort()
        server.pass_seconds(1)
        assert sock.closed

    with_server(ring_with(), test, limits=Limits(requests_per_second_per_uid=2))


def test_a_user_with_all_connections_loses_one_to_another_user() -> None:
    def test(server: InMemoryServer) -> None:
        mine = [server.connect()[1] for _ in range(4)]
        server.pass_seconds(1)
        mine[0].arrive(SHORT)  # so the second one has waited longest
        _, other = server.connect(peer=OTHER)
        other.arrive(SHORT)
        assert responses(other) == [200]
        assert [sock.closed for sock in mine].count(True) == 1
        assert not mine[0].closed
        _, fifth = server.connect()
        assert split_responses(fifth.sent)[0].code == "serve.connections"

    with_server(ring_with(), test, limits=Limits(connections=4))


def test_sockets_that_threads_close_protect_no_other_user() -> None:
    def test(server: InMemoryServer) -> None:
        admission = server.listener.admission
        admission.count_closing(admission.quotas.of(OTHER.uid), 3)
        mine = [server.connect()[1] for _ in range(2)]
        _, third = server.connect(peer=THIRD)
        third.arrive(SHORT)
        assert responses(third) == [200]
        assert [sock.closed for sock in mine].count(True) == 1

    with_server(ring_with(), test, limits=Limits(connections=5))


def test_a_user_with_sockets_that_threads_close_evicts_no_other_user() -> None:
    def test(server: InMemoryServer) -> None:
        admission = server.listener.admission
        admission.count_closing(admission.quotas.of(OTHER.uid), 2)
        mine = [server.connect()[1] for _ in range(2)]
        _, other = server.connect(peer=OTHER)
        assert split_responses(other.sent)[0].code == "serve.connections"
        assert not any(sock.closed for sock in mine)

    with_server(ring_with(), test, limits=Limits(connections=4))


def test_users_with_equal_shares_lose_no_connection() -> None:
    def test(server: InMemoryServer) -> None:
        server.connect()
        server.connect(peer=OTHER)
        _, third = server.connect(peer=OTHER)
        assert split_responses(third.sent)[0].code == "serve.connections"
        _, fourth = server.connect(peer=THIRD)
        assert split_responses(fourth.sent)[0].code == "serve.connections"

    with_server(ring_with(), test, limits=Limits(connections=2))


def test_an_evicted_long_poll_gets_a_response() -> None:
    def test(server: InMemoryServer) -> None:
        mine = [server.connect()[1] for _ in range(2)]
        for sock in mine:
            sock.arrive(WAITING)
        server.connect(peer=OTHER)
        (response,) = split_responses(mine[0].sent + mine[1].sent)
        assert (response.status, response.code) == (503, "serve.not_ready")
        assert [sock.closed for sock in mine].count(True) == 1

    with_server(ring_with(waiting=["later"]), test, limits=Limits(connections=2))


def test_a_user_with_all_long_polls_loses_one_to_another_user() -> None:
    def test(server: InMemoryServer) -> None:
        mine = [server.connect()[1] for _ in range(3)]
        for sock in mine:
            sock.arrive(WAITING)
        assert responses(mine[2]) == [503]  # its own limit
        _, other = server.connect(peer=OTHER)
        other.arrive(WAITING)
        assert other.sent == b""
        assert responses(mine[0]) + responses(mine[1]) == [503]
        assert not mine[0].closed
        assert not mine[1].closed
        _, third = server.connect(peer=THIRD)
        third.arrive(WAITING)
        assert responses(third) == [503]  # no user has two

    ring = ring_with(waiting=["later"])
    with_server(ring, test, access=for_all(ring), limits=Limits(long_polls=2))


@pytest.mark.parametrize(
    ("limits", "request_"),
    [(Limits(long_polls=2), WAITING), (Limits(requests_in_flight=2), SHORT)],
)
def test_a_pipelined_long_poll_does_not_take_the_place_of_another_user(
    limits: Limits, request_: bytes
) -> None:
    def test(server: InMemoryServer) -> None:
        mine = [server.connect()[1] for _ in range(2)]
        for sock in mine:
            sock.arrive(WAITING * 20)
        _, other = server.connect(peer=OTHER)
        other.arrive(request_)
        assert 503 not in responses(other)
        assert sorted(responses(mine[0]) + responses(mine[1])) == [503]
        assert [sock.closed for sock in mine].count(True) == 1

    ring = ring_with(waiting=["later"])
    with_server(ring, test, access=for_all(ring), limits=limits)


def test_a_user_cannot_fill_the_response_cache_of_another_user() -> None:
    def test(server: InMemoryServer) -> None:
        _, many = server.connect()
        for number in range(300):
            many.arrive(get("/v1/openapi.json", f"X: {number}"))
            many.sent = b""
        handled = count_handled(server)
        _, other = server.connect(peer=OTHER)
        for _ in range(3):
            other.arrive(KEY)
        assert responses(other) == [200] * 3
        assert len(handled) == 1

    ring = ring_with(held_key())
    with_server(ring, test, access=for_all(ring))


def test_a_user_that_does_not_read_loses_a_connection_to_another_user() -> None:
    def test(server: InMemoryServer) -> None:
        stalled = [server.connect(room=10)[1] for _ in range(2)]
        for sock in stalled:
            sock.arrive(KEY)
        _, other = server.connect(peer=OTHER)
        other.arrive(KEY)
        assert responses(other) == [200]
        assert [sock.closed for sock in stalled].count(True) == 1

    ring = ring_with(held_key())
    with_server(ring, test, access=for_all(ring), limits=Limits(requests_in_flight=2))


@pytest.mark.parametrize("request_", [KEY, get(f"/v1/keys/{ALIAS}", "Connection: x")])
def test_a_new_connection_with_a_request_waits_for_its_round(
    request_: bytes,
) -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        arrive(server, sock, SHORT * SLOW)
        late = FullSocket(server.loop)
        server._sockets.append(late)
        late._arrived = request_
        server.listener.admit(late, MYSELF)
        assert late.sent == b""
        server.loop.turn()
        assert responses(late) == [200]

    with_server(ring_with(held_key()), test)
