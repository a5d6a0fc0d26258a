"""One user who takes what can be taken, and another who wants to be served."""

from __future__ import annotations

import pytest
from support.serving import ALIAS, MYSELF, get, held_key, ring_with, split_responses
from support.serving_in_memory import FullSocket, InMemoryServer, with_server

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


def answers(sock: FullSocket) -> list[int]:
    return [answer.status for answer in split_responses(sock.sent)]


def arrive(server: InMemoryServer, sock: FullSocket, data: bytes) -> None:
    """Let bytes arrive, and the loop look at them once: it does not go round."""
    sock._arrived += data
    if sock.reads:
        server.loop.readers[sock.fileno()]()


def test_a_user_with_very_much_to_ask_lets_others_ask_in_between() -> None:
    def test(server: InMemoryServer) -> None:
        _, many = server.connect()
        _, one = server.connect(peer=OTHER)
        arrive(server, many, SHORT * 300)
        assert len(answers(many)) == SLOW
        assert not many.reads
        arrive(server, one, SHORT)
        assert answers(one) == [200]
        server.loop.turn()
        assert len(answers(many)) == 2 * SLOW
        for _ in range(10):
            server.loop.turn()
        assert answers(many) == [200] * 300
        assert many.reads

    with_server(ring_with(), test)


def test_a_turn_is_a_users_and_not_a_connections() -> None:
    def test(server: InMemoryServer) -> None:
        _, first = server.connect()
        _, second = server.connect()
        arrive(server, first, SHORT * SLOW)
        assert len(answers(first)) == SLOW
        arrive(server, second, SHORT)
        assert answers(second) == []
        server.loop.turn()
        arrive(server, second, b"")  # it is readable still
        assert answers(second) == [200]

    with_server(ring_with(), test)


def test_the_same_request_again_and_again_has_turns_as_well() -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        for _ in range(QUANTUM + 10):
            arrive(server, sock, KEY)
        assert (
            len(answers(sock)) == QUANTUM - UNCACHED_COST + 1
        )  # the first one was not the same
        server.loop.turn()
        arrive(server, sock, b"")
        assert len(answers(sock)) == QUANTUM + 10

    with_server(ring_with(held_key()), test)


def test_the_same_request_that_waited_for_its_turn_takes_no_more_of_it() -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        in_a_turn = QUANTUM - UNCACHED_COST + 1  # the first one was not the same
        for _ in range(in_a_turn + 1):
            arrive(server, sock, KEY)
        assert len(answers(sock)) == in_a_turn
        server.loop.turn()
        arrive(server, sock, b"")
        for _ in range(QUANTUM - 1):
            arrive(server, sock, KEY)
        assert len(answers(sock)) == in_a_turn + QUANTUM

    with_server(ring_with(held_key()), test)


def test_long_requests_use_a_turn_up_sooner() -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        long = SHORT[:-2] + b"X: " + b"y" * 7000 + b"\r\n\r\n"
        for _ in range(10):
            arrive(server, sock, long)
        assert len(answers(sock)) == 5
        for _ in range(10):
            server.loop.turn()
            arrive(server, sock, b"")
        assert answers(sock) == [200] * 10

    with_server(ring_with(), test)


def test_what_is_left_of_a_turn_is_not_lost() -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        sock.arrive(SHORT * 300)
        assert answers(sock) == [200] * 200 + [429]

    with_server(ring_with(), test, limits=Limits(requests_per_second_per_uid=200))


def test_who_asked_too_much_is_told_once_and_not_read_before_the_next_second() -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        sock.arrive(SHORT * 5)
        sock.arrive(SHORT)
        assert answers(sock) == [200, 200, 429]
        assert not sock.reads
        server.pass_seconds(1)
        assert answers(sock) == [200, 200, 429, 200, 200]
        sock.arrive(b"")
        assert answers(sock)[5:] == [429]
        server.pass_seconds(1)
        assert sock.reads

    with_server(ring_with(), test, limits=Limits(requests_per_second_per_uid=2))


def test_who_is_not_read_may_go() -> None:
    def test(server: InMemoryServer) -> None:
        connection, sock = server.connect()
        sock.arrive(SHORT * 5)
        connection.abort()
        server.pass_seconds(1)
        assert sock.closed

    with_server(ring_with(), test, limits=Limits(requests_per_second_per_uid=2))


def test_a_user_who_has_all_connections_gives_one_to_another() -> None:
    def test(server: InMemoryServer) -> None:
        mine = [server.connect()[1] for _ in range(4)]
        server.pass_seconds(1)
        mine[0].arrive(SHORT)  # so the second one has waited longest
        _, other = server.connect(peer=OTHER)
        other.arrive(SHORT)
        assert answers(other) == [200]
        assert [sock.closed for sock in mine].count(True) == 1
        assert not mine[0].closed
        _, fifth = server.connect()
        assert split_responses(fifth.sent)[0].code == "serve.connections"

    with_server(ring_with(), test, limits=Limits(connections=4))


def test_users_who_have_as_much_give_nothing() -> None:
    def test(server: InMemoryServer) -> None:
        server.connect()
        server.connect(peer=OTHER)
        _, third = server.connect(peer=OTHER)
        assert split_responses(third.sent)[0].code == "serve.connections"
        _, fourth = server.connect(peer=THIRD)
        assert split_responses(fourth.sent)[0].code == "serve.connections"

    with_server(ring_with(), test, limits=Limits(connections=2))


def test_who_waits_and_gives_way_is_answered() -> None:
    def test(server: InMemoryServer) -> None:
        mine = [server.connect()[1] for _ in range(2)]
        for sock in mine:
            sock.arrive(WAITING)
        server.connect(peer=OTHER)
        (answer,) = split_responses(mine[0].sent + mine[1].sent)
        assert (answer.status, answer.code) == (503, "serve.not_ready")
        assert [sock.closed for sock in mine].count(True) == 1

    with_server(ring_with(waiting=["later"]), test, limits=Limits(connections=2))


def test_a_user_who_waits_everywhere_lets_another_wait() -> None:
    def test(server: InMemoryServer) -> None:
        mine = [server.connect()[1] for _ in range(3)]
        for sock in mine:
            sock.arrive(WAITING)
        assert answers(mine[2]) == [503]  # its own limit
        _, other = server.connect(peer=OTHER)
        other.arrive(WAITING)
        assert other.sent == b""
        assert answers(mine[0]) + answers(mine[1]) == [503]
        assert not mine[0].closed
        assert not mine[1].closed
        _, third = server.connect(peer=THIRD)
        third.arrive(WAITING)
        assert answers(third) == [503]  # nobody has two

    ring = ring_with(waiting=["later"])
    with_server(ring, test, access=for_all(ring), limits=Limits(long_polls=2))


def test_a_user_who_takes_no_answers_lets_another_ask() -> None:
    def test(server: InMemoryServer) -> None:
        stalled = [server.connect(room=10)[1] for _ in range(2)]
        for sock in stalled:
            sock.arrive(KEY)
        _, other = server.connect(peer=OTHER)
        other.arrive(KEY)
        assert answers(other) == [200]
        assert [sock.closed for sock in stalled].count(True) == 1

    ring = ring_with(held_key())
    with_server(ring, test, access=for_all(ring), limits=Limits(requests_in_flight=2))


@pytest.mark.parametrize("request_", [KEY, get(f"/v1/keys/{ALIAS}", "Connection: x")])
def test_a_connection_that_brings_its_request_waits_for_its_turn(
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
        assert answers(late) == [200]

    with_server(ring_with(held_key()), test)
