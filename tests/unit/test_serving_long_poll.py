"""Requests that wait: for a key, for its next version, for a change of the status."""

from __future__ import annotations

import pytest
from support.serving import (
    ALIAS,
    FORMS,
    NEXT_VERSION,
    VERSION,
    get,
    held_key,
    ring_with,
    split_responses,
)
from support.serving_in_memory import InMemoryServer, feed, with_server

from skragent.keyring import Keyring, KeyState
from skragent.observe import Counters
from skragent.serving import Access
from skragent.serving.http.long_poll import LongPoll, LongPolls
from skragent.serving.http.response import Response, json_response

KEY = get(f"/v1/keys/{ALIAS}")
SOON = get(f"/v1/keys/{ALIAS}?wait=10")
NEWER = get(f"/v1/keys/{ALIAS}?wait=10", f'If-None-Match: "{VERSION}"')


def waiting_ring() -> Keyring:
    return ring_with(waiting=[ALIAS])


def test_a_held_key_is_sent_at_once() -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, SOON)
        assert [a.body for a in split_responses(sock.sent)] == [FORMS["jwk"]]

    with_server(ring_with(held_key()), test)


def test_a_key_is_sent_when_it_arrives() -> None:
    ring = waiting_ring()

    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, SOON)
        server.pass_seconds(3)
        assert sock.sent == b""
        assert server.counters.in_flight["api"] == 1
        ring.put(held_key())
        assert [a.body for a in split_responses(sock.sent)] == [FORMS["jwk"]]
        assert server.counters.in_flight["api"] == 0

    with_server(ring, test)


def test_an_expired_long_poll_gets_not_ready() -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, SOON)
        server.pass_seconds(10)
        assert sock.sent == b""
        server.pass_seconds(1)
        (response,) = split_responses(sock.sent)
        assert (response.status, response.code) == (503, "serve.not_ready")
        feed(sock, get("/healthz"))
        assert [a.status for a in split_responses(sock.sent)] == [503, 200]

    with_server(waiting_ring(), test)


def test_a_newer_version_is_sent_when_it_arrives() -> None:
    ring = ring_with(held_key())

    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, NEWER)
        ring.mark(ALIAS, KeyState.STALE)  # changed, and no newer version
        assert sock.sent == b""
        ring.put(held_key(version=NEXT_VERSION))
        (response,) = split_responses(sock.sent)
        assert (response.status, response.headers["ETag"]) == (200, f'"{NEXT_VERSION}"')

    with_server(ring, test)


def test_an_expired_long_poll_for_a_newer_version_gets_304() -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, NEWER)
        server.pass_seconds(11)
        assert [a.status for a in split_responses(sock.sent)] == [304]

    with_server(ring_with(held_key()), test)


def test_a_long_poll_can_wait_for_a_version() -> None:
    ring = ring_with(held_key())

    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, get(f"/v1/keys/{ALIAS}?wait=10&version={NEXT_VERSION}"))
        assert sock.sent == b""
        ring.put(held_key(version=NEXT_VERSION))
        assert [a.status for a in split_responses(sock.sent)] == [200]

    with_server(ring, test)


def test_a_key_that_is_dropped_and_released_again_is_sent() -> None:
    ring = ring_with(held_key())

    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, NEWER)
        ring.drop(ALIAS, KeyState.DENIED)
        assert sock.sent == b""
        ring.put(held_key(version=NEXT_VERSION))
        assert [a.status for a in split_responses(sock.sent)] == [200]

    with_server(ring, test)


def test_requests_after_a_long_poll_are_served_in_order() -> None:
    ring = waiting_ring()

    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, SOON + get("/healthz"))
        feed(sock, KEY)
        assert sock.sent == b""
        ring.put(held_key())
        responses = split_responses(sock.sent)
        assert [a.status for a in responses] == [200, 200, 200]
        assert [responses[i].body for i in (0, 2)] == [FORMS["jwk"]] * 2

    with_server(ring, test)


def test_a_cached_request_after_a_long_poll_is_served_after_it() -> None:
    ring = ring_with(held_key())

    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, KEY)
        feed(sock, NEWER)
        feed(sock, KEY)
        assert len(split_responses(sock.sent)) == 1
        ring.put(held_key(version=NEXT_VERSION))
        assert len(split_responses(sock.sent)) == 3

    with_server(ring, test)


def test_an_aborted_connection_has_no_long_poll() -> None:
    ring = waiting_ring()

    def test(server: InMemoryServer) -> None:
        connection, sock = server.connect()
        feed(sock, SOON)
        connection.abort()
        ring.put(held_key())
        assert sock.sent == b""
        assert server.counters.in_flight["api"] == 0

    with_server(ring, test)


def test_a_long_poll_returns_when_the_rules_deny_the_key() -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, SOON)
        server.api.change_access(Access({}))
        (response,) = split_responses(sock.sent)
        assert (response.status, response.code) == (404, "serve.denied")

    with_server(waiting_ring(), test)


def test_a_long_poll_returns_when_the_agent_stops() -> None:
    def test(server: InMemoryServer) -> None:
        connection, sock = server.connect()
        feed(sock, SOON)
        connection.close()
        (response,) = split_responses(sock.sent)
        assert (response.status, response.headers["Connection"]) == (503, "close")
        assert sock.closed

    with_server(waiting_ring(), test)


@pytest.mark.parametrize("fraction", ["0.5", "1", "1.000"])
def test_a_wait_is_never_shorter_than_requested(fraction: str) -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, get(f"/v1/keys/{ALIAS}?wait={fraction}"))
        server.pass_seconds(1)
        assert sock.sent == b""
        server.pass_seconds(1)
        assert len(split_responses(sock.sent)) == 1

    with_server(waiting_ring(), test)


def test_the_status_is_sent_when_it_changes() -> None:
    ring = waiting_ring()

    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, get("/v1/status"))
        (now,) = split_responses(sock.sent)
        assert now.json["keys"][0]["state"] == "waiting"
        sock.sent = b""
        tag = now.headers["ETag"]
        feed(sock, get("/v1/status?wait=10", f"If-None-Match: {tag}"))
        assert sock.sent == b""
        ring.put(held_key())
        (later,) = split_responses(sock.sent)
        assert later.json["keys"][0]["state"] == "current"
        assert later.headers["ETag"] != tag

    with_server(ring, test)


def test_the_status_of_a_caller_does_not_change_with_other_keys() -> None:
    ring = waiting_ring()

    def test(server: InMemoryServer) -> None:
        server.api.change_access(Access({}))
        _, sock = server.connect()
        feed(sock, get("/v1/status"))
        tag = split_responses(sock.sent)[0].headers["ETag"]
        sock.sent = b""
        feed(sock, get("/v1/status?wait=10", f"If-None-Match: {tag}"))
        ring.put(held_key())
        assert sock.sent == b""
        server.pass_seconds(11)
        assert [a.status for a in split_responses(sock.sent)] == [304]

    with_server(ring, test)


class Waiter:
    """A connection whose answer ends what all others wait for."""

    def __init__(self, everybody: list[LongPoll]) -> None:
        self.responses = 0
        self._everybody = everybody

    def deliver(self, response: Response) -> None:
        assert response
        self.responses += 1
        for long_poll in self._everybody:
            long_poll.cancel()

    def fail(self, error: Exception) -> None:
        raise AssertionError from error


def test_a_long_poll_cancelled_by_another_response_gets_none() -> None:
    lots = LongPolls()
    news: list[Response] = []
    everybody: list[LongPoll] = []
    waiters = [Waiter(everybody) for _ in range(3)]
    for waiter in waiters:
        long_poll = lots.respond_or_wait(
            "db", 10, lambda _must: news[0] if news else None
        )
        assert isinstance(long_poll, LongPoll)
        long_poll.start(waiter, tick=0)
        everybody.append(long_poll)
    news.append(json_response({}, counter=Counters().requests_cell("api", "get", "ok")))
    lots.notify("db")
    assert sum(waiter.responses for waiter in waiters) == 1


def test_a_status_long_poll_returns_when_the_rules_change() -> None:
    def test(server: InMemoryServer) -> None:
        _, sock = server.connect()
        feed(sock, get("/v1/status"))
        (before,) = split_responses(sock.sent)
        sock.sent = b""
        tag = before.headers["ETag"]
        feed(sock, get("/v1/status?wait=10", f"If-None-Match: {tag}"))
        server.api.change_access(Access({}))
        (response,) = split_responses(sock.sent)
        assert (response.status, response.json["keys"]) == (200, [])

    with_server(ring_with(held_key()), test)
