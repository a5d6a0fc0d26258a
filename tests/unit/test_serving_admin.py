"""The resources of admin.sock, and their access check."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence

import pytest
from support.serving import (
    ALIAS,
    ReceivedResponse,
    get,
    held_key,
    ring_with,
    split_responses,
)

from skragent.keyring import Keyring, KeyState
from skragent.observe import Counters
from skragent.serving.admin import AdminApi, ReloadOutcome
from skragent.serving.http.long_poll import LongPoll
from skragent.serving.http.request import parse_head
from skragent.serving.http.response import Response
from skragent.serving.peers import Peer

ROOT = Peer(uid=0, gid=0, pid=1)
UNKNOWN = Peer(uid=54321, gid=0, pid=1, groups=frozenset({0}))


class Control:
    """Takes orders, and remembers them."""

    def __init__(self) -> None:
        self.orders: list[tuple[str, ...]] = []
        self.due_at = 2.0

    def refresh(self, aliases: Sequence[str]) -> None:
        self.orders.append(("refresh", *aliases))

    def reload(self, listener: Callable[[ReloadOutcome], None]) -> None:
        raise NotImplementedError(listener)  # see test_serving_reload

    def drop(self, alias: str) -> None:
        self.orders.append(("drop", alias))

    def describe(self) -> Mapping[str, object]:
        return {"started_at": 1.0}

    def describe_key(self, alias: str) -> Mapping[str, object]:
        self.due_at += 0.001  # computed from two clocks: never twice the same
        return {
            "vault": f"https://{alias}.vault.azure.net",
            "due_at": self.due_at,
            "wipe_at": self.due_at + 300,
        }


class Admin:
    """An API of one keyring, asked without a wire."""

    def __init__(self, ring: Keyring) -> None:
        self.control = Control()
        self.counters = Counters()
        self.api = AdminApi(ring, self.counters, self.control)

    def send(self, request: bytes, peer: Peer = ROOT) -> ReceivedResponse | LongPoll:
        head, end, body = request.partition(b"\r\n\r\n")
        parsed = parse_head(head + end).with_body(body)
        response = self.api.handle(parsed, peer)
        if isinstance(response, LongPoll):
            return response
        (answered,) = split_responses(b"".join(response.parts))
        return answered

    def ask(self, request: bytes, peer: Peer = ROOT) -> ReceivedResponse:
        answered = self.send(request, peer)
        assert isinstance(answered, ReceivedResponse)
        return answered


def post(body: bytes = b"") -> bytes:
    request = get("/v1/refresh", f"Content-Length: {len(body)}") + body
    return request.replace(b"GET", b"POST", 1)


def delete(name: str) -> bytes:
    return get(f"/v1/keys/{name}").replace(b"GET", b"DELETE", 1)


@pytest.fixture
def ring() -> Keyring:
    return ring_with(held_key(), waiting=["later"])


@pytest.fixture
def admin(ring: Keyring) -> Admin:
    return Admin(ring)


@pytest.mark.parametrize(
    "request_", [get("/v1/status"), post(), delete(ALIAS), get("/healthz"), get("/x")]
)
def test_only_root_may_send_requests(admin: Admin, request_: bytes) -> None:
    assert admin.ask(request_, UNKNOWN).code == "serve.denied"
    assert admin.control.orders == []


@pytest.mark.parametrize("uid", [-1, 1, 977, 1000, 1234, 65534, 2**32 - 1])
def test_no_other_user_is_root(
    admin: Admin, uid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert admin.ask(post(), Peer(uid=uid, gid=0, pid=1)).code == "serve.denied"
    assert admin.control.orders == []


def test_the_user_of_the_agent_may_do_what_root_may(
    ring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 977)
    admin = Admin(ring)
    for uid in (977, 0):
        assert admin.ask(post(), Peer(uid=uid, gid=977, pid=1)).status == 202


def test_denied_callers_are_counted(admin: Admin) -> None:
    admin.ask(get("/v1/status"), UNKNOWN)
    assert admin.counters.denied["no_rule"] == 1


@pytest.mark.parametrize(
    "request_",
    [
        get("/v1/status?hold=5"),
        get("/v1/status?wait=300.1"),
        post().replace(b"refresh", b"refresh?key=db"),
        delete(f"{ALIAS}?wait=5"),
    ],
)
def test_an_unknown_query_is_rejected(admin: Admin, request_: bytes) -> None:
    """Else an order is taken for more than was meant."""
    response = admin.ask(request_)
    assert (response.status, response.code) == (400, "serve.bad_request")
    assert admin.control.orders == []


def test_the_status_has_everything(admin: Admin, ring: Keyring) -> None:
    ring.note_failure("later", "transport.timeout")
    status = admin.ask(get("/v1/status")).json
    assert status["started_at"] == 1.0
    assert status["state"] == "degraded"
    assert [key["name"] for key in status["keys"]] == [ALIAS, "later"]
    later = status["keys"][1]
    assert later["last_failure"] == "transport.timeout"
    assert later["vault"] == "https://later.vault.azure.net"
    assert 2 < later["due_at"] < 3
    assert later["wipe_at"] == later["due_at"] + 300


def test_the_status_contains_sockets_and_token(admin: Admin) -> None:
    counters = admin.counters
    counters.connections["api"], counters.in_flight["api"] = 3, 2
    counters.attested_at, counters.token_expires_at = 10.0, 20.0
    counters.ak_certificate_expires_at = 30.0
    status = admin.ask(get("/v1/status")).json
    assert status["sockets"] == {"api": {"connections": 3, "in_flight": 2}}
    assert status["attestation"] == {
        "attested_at": 10.0,
        "token_expires_at": 20.0,
        "ak_certificate_expires_at": 30.0,
    }


def test_a_failure_is_a_change_of_the_status(admin: Admin, ring: Keyring) -> None:
    tag = admin.ask(get("/v1/status")).headers["ETag"]
    assert isinstance(
        admin.send(get("/v1/status?wait=5", f"If-None-Match: {tag}")), LongPoll
    )
    ring.note_failure("later", "transport.timeout")
    assert admin.ask(get("/v1/status")).headers["ETag"] != tag


class Waiting:
    """A connection that waits, and what it was sent."""

    def __init__(self) -> None:
        self.responses: list[Response] = []

    def deliver(self, response: Response) -> None:
        self.responses.append(response)

    def fail(self, error: Exception) -> None:
        raise AssertionError from error


def test_a_status_long_poll_returns_after_a_failure(
    admin: Admin, ring: Keyring
) -> None:
    tag = admin.ask(get("/v1/status")).headers["ETag"]
    long_poll = admin.send(get("/v1/status?wait=5", f"If-None-Match: {tag}"))
    assert isinstance(long_poll, LongPoll)
    waiting = Waiting()
    long_poll.start(waiting, tick=0)
    ring.note_failure("later", "transport.timeout")
    assert len(waiting.responses) == 1


def test_all_keys_are_refreshed_without_names(admin: Admin) -> None:
    response = admin.ask(post())
    assert response.status == 202
    assert response.json["refreshing"] == [ALIAS, "later"]
    assert admin.control.orders == [("refresh", ALIAS, "later")]


def test_a_refresh_returns_the_number_of_attempts_before_it(
    admin: Admin, ring: Keyring
) -> None:
    ring.note_attempt("later")
    assert admin.ask(post()).json["attempts"] == {ALIAS: 0, "later": 1}
    ring.note_attempt("later")
    keys = admin.ask(get("/v1/status")).json["keys"]
    assert {key["name"]: key["attempts"] for key in keys} == {ALIAS: 0, "later": 2}


def test_the_status_contains_cause_and_remedy_of_the_last_failure(
    admin: Admin, ring: Keyring
) -> None:
    ring.note_failure("later", "transport.dns", message="no address", hint="Look.")
    key = admin.ask(get("/v1/status")).json["keys"][-1]
    assert key["last_failure_message"] == "no address"
    assert key["last_failure_hint"] == "Look."


def test_a_dropped_key_is_refreshed_only_by_its_name(
    admin: Admin, ring: Keyring
) -> None:
    ring.mark(ALIAS, KeyState.DROPPED)
    assert admin.ask(post()).json["refreshing"] == ["later"]
    body = json.dumps({"keys": [ALIAS, ALIAS]}).encode()
    assert admin.ask(post(body)).json["refreshing"] == [ALIAS]
    assert admin.control.orders == [("refresh", "later"), ("refresh", ALIAS)]


@pytest.mark.parametrize(
    "body",
    [
        b"x",
        b"[]",
        b"null",
        b"{}",
        b'{"keys": []}',
        b'{"keys": "db"}',
        b'{"keys": [1]}',
        b'{"keys": ["db"], "more": 1}',
        b'{"key": "db"}',
        b"[" * 5000,
        b"\xff",
    ],
)
def test_a_malformed_order_is_rejected(admin: Admin, body: bytes) -> None:
    response = admin.ask(post(body))
    assert (response.status, response.code) == (400, "serve.bad_request")
    assert admin.control.orders == []


def test_a_key_is_dropped(admin: Admin) -> None:
    assert admin.ask(delete(ALIAS)).json == {"dropped": ALIAS}
    assert admin.control.orders == [("drop", ALIAS)]


def test_a_percent_encoded_name_is_the_same_name(admin: Admin) -> None:
    assert admin.ask(delete("%64b")).json == {"dropped": "db"}
    assert admin.control.orders == [("drop", "db")]


@pytest.mark.parametrize(
    ("order", "line"),
    [
        (post(), "refresh of db, later requested by uid 0"),
        (post(b'{"keys": ["later"]}'), "refresh of later requested by uid 0"),
        (delete(ALIAS), "drop of key db requested by uid 0"),
    ],
)
def test_orders_are_logged_with_their_caller(
    admin: Admin, caplog: pytest.LogCaptureFixture, order: bytes, line: str
) -> None:
    admin.ask(order)
    (record,) = caplog.records
    assert record.getMessage() == line
    assert vars(record)["SKRAGENT_UID"] == "0"


@pytest.mark.parametrize("order", [post(b'{"keys": ["unknown"]}'), delete("unknown")])
def test_a_rejected_order_is_not_logged(
    admin: Admin, caplog: pytest.LogCaptureFixture, order: bytes
) -> None:
    admin.ask(order)
    assert caplog.records == []


def test_an_unknown_key_is_reported(admin: Admin) -> None:
    assert admin.ask(delete("unknown")).code == "serve.denied"
    assert admin.ask(post(b'{"keys": ["db", "unknown"]}')).code == "serve.denied"
    assert admin.control.orders == []


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/status", "GET, HEAD"),
        ("/healthz", "GET, HEAD"),
        ("/v1/refresh", "POST"),
        ("/v1/keys/db", "DELETE"),
    ],
)
def test_other_methods_are_rejected(admin: Admin, path: str, allowed: str) -> None:
    response = admin.ask(get(path).replace(b"GET", b"PUT", 1))
    assert (response.status, response.code) == (405, "serve.method")
    assert response.headers["Allow"] == allowed


def test_only_refresh_accepts_a_body(admin: Admin) -> None:
    request = get(f"/v1/keys/{ALIAS}", "Content-Length: 2").replace(b"GET", b"DELETE")
    assert admin.ask(request + b"{}").code == "serve.body"
    assert admin.control.orders == []


def expecting(path: str) -> bytes:
    request = get(path, "Expect: 100-continue", "Content-Length: 5")
    return request.replace(b"GET", b"POST", 1)


@pytest.mark.parametrize(
    ("path", "peer", "is_taken"),
    [
        ("/v1/refresh", ROOT, True),
        ("/v1/refresh", UNKNOWN, False),
        ("/v1/reload", ROOT, False),
        ("/v1/status", ROOT, False),
        ("/v1/keys/db", ROOT, False),
        ("/x", ROOT, False),
    ],
)
def test_only_refresh_gets_100_continue(
    admin: Admin, path: str, peer: Peer, *, is_taken: bool
) -> None:
    assert admin.api.accepts_body(parse_head(expecting(path)), peer) is is_taken


@pytest.mark.parametrize(
    "path", ["/v1/reload", "/v1/status", "/v1/keys/db", "/healthz"]
)
def test_a_body_without_100_continue_is_rejected(admin: Admin, path: str) -> None:
    method = {"/v1/reload": b"POST", "/v1/keys/db": b"DELETE"}.get(path, b"GET")
    head = get(path, "Content-Length: 5").replace(b"GET", method, 1)
    response = admin.api.handle(parse_head(head), ROOT)
    assert isinstance(response, Response)
    (answered,) = split_responses(b"".join(response.parts))
    assert (answered.status, answered.code) == (400, "serve.body")
    assert admin.control.orders == []
