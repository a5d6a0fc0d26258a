"""An order to reload, on admin.sock: answered when it is known what came of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pytest
from support.serving import ReceivedResponse, get, held_key, ring_with, split_responses

from skragent.errors import AgentError, ConfigError
from skragent.observe import Counters
from skragent.serving.admin import AdminApi, ReloadOutcome
from skragent.serving.http.long_poll import LongPoll
from skragent.serving.http.request import parse_head
from skragent.serving.http.response import Response
from skragent.serving.peers import Peer

ROOT = Peer(uid=0, gid=0, pid=1)
RELOAD = get("/v1/reload").replace(b"GET", b"POST", 1)


@dataclass
class Outcome:
    """What came of a reload, as the test decides."""

    error: AgentError | None = None
    needs_restart: Sequence[str] = ()


class Control:
    """Reloads when the test says so."""

    def __init__(self) -> None:
        self.listeners: list[Callable[[ReloadOutcome], None]] = []

    def reload(self, listener: Callable[[ReloadOutcome], None]) -> None:
        self.listeners.append(listener)

    def refresh(self, aliases: Sequence[str]) -> None:
        raise AssertionError(aliases)

    def drop(self, alias: str) -> None:
        raise AssertionError(alias)

    def describe(self) -> Mapping[str, object]:
        return {}

    def describe_key(self, alias: str) -> Mapping[str, object]:
        return {"name": alias}


class Waiter:
    """A connection that waits, and what it is told."""

    def __init__(self) -> None:
        self.told: list[ReceivedResponse] = []
        self.long_poll: LongPoll | None = None

    def deliver(self, response: Response) -> None:
        self.told += split_responses(b"".join(response.parts))
        assert self.long_poll is not None
        self.long_poll.cancel()

    def fail(self, error: Exception) -> None:
        raise AssertionError from error


@dataclass
class Admin:
    """An order that waits."""

    control: Control
    waiter: Waiter
    long_poll: LongPoll


@pytest.fixture
def admin() -> Admin:
    control, waiter = Control(), Waiter()
    api = AdminApi(ring_with(held_key()), Counters(), control)
    long_poll = api.handle(parse_head(RELOAD), ROOT)
    assert isinstance(long_poll, LongPoll)
    waiter.long_poll = long_poll
    long_poll.start(waiter, 0)
    return Admin(control, waiter, long_poll)


def test_a_reload_waits_for_its_outcome(admin: Admin) -> None:
    assert len(admin.control.listeners) == 1
    assert admin.waiter.told == []


def test_a_reload_returns_the_settings_that_need_a_restart(admin: Admin) -> None:
    admin.control.listeners[0](Outcome(needs_restart=("agent.api_socket",)))
    (answered,) = admin.waiter.told
    assert answered.status == 200
    assert json.loads(answered.body) == {"needs_restart": ["agent.api_socket"]}


def test_a_failed_reload_returns_every_problem(admin: Admin) -> None:
    admin.control.listeners[0](Outcome(ConfigError(["keys.a: x", "keys.b: y"])))
    (answered,) = admin.waiter.told
    problem = json.loads(answered.body)
    assert (answered.status, problem["code"]) == (422, "config.invalid")
    assert problem["detail"] == "keys.a: x; keys.b: y"


def test_a_reload_that_takes_too_long_gets_a_response(admin: Admin) -> None:
    admin.long_poll.finish()
    (answered,) = admin.waiter.told
    problem = json.loads(answered.body)
    assert (answered.status, problem["code"]) == (503, "serve.not_ready")


def test_a_reload_accepts_no_body() -> None:
    control = Control()
    api = AdminApi(ring_with(held_key()), Counters(), control)
    response = api.handle(parse_head(RELOAD).with_body(b"[keys.a]"), ROOT)
    assert isinstance(response, Response)
    (answered,) = split_responses(b"".join(response.parts))
    assert json.loads(answered.body)["code"] == "serve.body"
    assert control.listeners == []


def test_only_root_may_reload() -> None:
    control = Control()
    api = AdminApi(ring_with(held_key()), Counters(), control)
    response = api.handle(parse_head(RELOAD), Peer(uid=54321, gid=0, pid=1))
    assert isinstance(response, Response)
    assert control.listeners == []
