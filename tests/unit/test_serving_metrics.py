"""The servers: quotas of callers, ticks, and the metrics port."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest
from support.serving import (
    ALIAS,
    NOW,
    ReceivedResponse,
    get,
    held_key,
    no_attempt,
    received,
    ring_with,
)

from skragent.observe import Counters
from skragent.serving import Access, ApiServer, MetricsServer
from skragent.serving.access import Rule
from skragent.serving.http.request import parse_head
from skragent.serving.http.response import Response
from skragent.serving.peers import UNIDENTIFIED, Peer

if TYPE_CHECKING:
    from collections.abc import Iterator

ACCESS = Access({ALIAS: (Rule(uid=7), Rule(uid=8))})
UNKNOWN = Peer(uid=54321, gid=1, pid=1)


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as unbound:
        yield unbound


@pytest.fixture
def server(sock: socket.socket) -> ApiServer:
    ring = ring_with(held_key())
    return ApiServer(sock, ring, ACCESS, Counters(), now=lambda: NOW, due_at=no_attempt)


def ask(server: ApiServer | MetricsServer, path: str, peer: Peer) -> ReceivedResponse:
    response = server._listener._handle(parse_head(get(path)), peer)
    return received(response)


def owner(server: ApiServer, uid: int) -> int:
    return server._listener.owner_of(Peer(uid=uid, gid=1, pid=1))


def test_users_without_rules_share_one_quota(server: ApiServer) -> None:
    """Otherwise many users could take all connections together."""
    assert owner(server, 100) == owner(server, 200)
    assert len({owner(server, uid) for uid in (7, 8, 100)}) == 3


def test_the_quota_of_a_caller_follows_the_newest_rules(
    server: ApiServer,
) -> None:
    server.change_access(Access({ALIAS: (Rule(uid=100),)}))
    assert owner(server, 100) != owner(server, 200)
    assert owner(server, 7) == owner(server, 200)


def test_a_denial_is_logged_at_the_next_tick(
    server: ApiServer, caplog: pytest.LogCaptureFixture
) -> None:
    assert ask(server, f"/v1/keys/{ALIAS}", UNKNOWN).status == 404
    assert caplog.messages == []
    server._listener._begin_tick()
    assert caplog.messages == ["uid 54321 was denied key db: no rule allows it"]


def test_a_denial_just_before_the_stop_is_logged(
    server: ApiServer, caplog: pytest.LogCaptureFixture
) -> None:
    ask(server, f"/v1/keys/{ALIAS}", UNKNOWN)
    asyncio.run(server.close(0))
    assert caplog.messages == ["uid 54321 was denied key db: no rule allows it"]


def test_the_metrics_are_rendered_anew_at_each_tick(sock: socket.socket) -> None:
    ring, counters = ring_with(held_key()), Counters()
    server = MetricsServer(sock, ring, counters)
    ask(server, "/metrics", UNIDENTIFIED)
    counters.connections["api"] = 33
    server._listener._begin_tick()
    assert b'skragent_socket_connections{socket="api"} 33.0' in (
        ask(server, "/metrics", UNIDENTIFIED).body
    )


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/x"])
def test_head_on_the_metrics_port_is_like_get(sock: socket.socket, path: str) -> None:
    server = MetricsServer(sock, ring_with(held_key()), Counters())
    by_get, by_head = (
        server._listener._handle(parse_head(request), UNIDENTIFIED)
        for request in (get(path), get(path).replace(b"GET", b"HEAD", 1))
    )
    assert isinstance(by_get, Response)
    assert isinstance(by_head, Response)
    assert by_get.parts[0] == by_head.parts[0]
    assert by_get.counter is by_head.counter


def test_the_metrics_port_rejects_post(sock: socket.socket) -> None:
    server = MetricsServer(sock, ring_with(held_key()), Counters())
    request = get("/metrics").replace(b"GET", b"POST", 1)
    response = server._listener._handle(parse_head(request), UNIDENTIFIED)
    answered = received(response)
    assert (answered.status, answered.code) == (405, "serve.method")
    assert answered.headers["Allow"] == "GET, HEAD"


def test_the_metrics_port_rejects_a_body(sock: socket.socket) -> None:
    server = MetricsServer(sock, ring_with(held_key()), Counters())
    head = parse_head(get("/metrics", "Content-Length: 1"))
    answered = received(server._listener._handle(head, UNIDENTIFIED))
    assert (answered.status, answered.code) == (400, "serve.body")
