"""`skragent refresh --wait` against a substitute of the agent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.scripted_agent import agent, document

from skragent import exit_codes
from skragent.cli.main import main

VERSION = "f" * 32
KEY: Mapping[str, Any] = {
    "name": "db",
    "state": "current",
    "version": VERSION,
    "last_failure": None,
    "needs_attention": False,
    "attempts": 4,
}
FAILED: Mapping[str, Any] = {
    "last_failure": "transport.timeout",
    "last_failure_message": "the vault did not answer",
    "last_failure_hint": "Check the route.",
}


def accepted(*names: str, attempts: object = 3) -> bytes:
    body = json.dumps(
        {
            "refreshing": names,
            "attempts": dict.fromkeys(names, attempts),
            "started_at": 1,
        }
    ).encode()
    head = b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\n"
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def status(*keys: Mapping[str, Any], tag: str = "t", started_at: int = 1) -> bytes:
    return document({"keys": keys, "started_at": started_at}, tag=tag)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


def refresh(path: Path, *words: str) -> int:
    return main(["refresh", "--wait", "--socket", str(path), *words])


def test_the_version_that_was_released_is_told(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with agent(path, accepted("db"), status(KEY)):
        assert refresh(path) == exit_codes.OK
    assert (
        capsys.readouterr().out == f"refreshing: db\ndb: released, version {VERSION}\n"
    )


def test_an_attempt_before_the_request_is_not_its_result(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {**KEY, **FAILED, "attempts": 3}
    with agent(path, accepted("db"), status(before), status(KEY, tag="u")) as requests:
        assert refresh(path) == exit_codes.OK
    assert b"If-None-Match" in requests[2]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        ({}, exit_codes.TEMPFAIL),
        ({"needs_attention": True}, exit_codes.UNAVAILABLE),
        (
            {"last_failure": "release.denied.policy", "needs_attention": True},
            exit_codes.NOPERM,
        ),
    ],
)
def test_a_failure_is_told_with_cause_and_remedy(
    path: Path,
    capsys: pytest.CaptureFixture[str],
    failure: Mapping[str, Any],
    code: int,
) -> None:
    with agent(path, accepted("db"), status({**KEY, **FAILED, **failure})):
        assert refresh(path) == code
    said = capsys.readouterr().err
    assert f"db: not released; version {VERSION} stays held\n" in said
    assert "the vault did not answer\n  remedy: Check the route.\n" in said


def test_the_worst_of_several_results_is_the_exit_status(path: Path) -> None:
    other = {**KEY, "name": "web"}
    denied = {**KEY, **FAILED, "last_failure": "release.not_found"}
    with agent(path, accepted("web", "db"), status(other, denied)):
        assert refresh(path) == exit_codes.NOPERM


@pytest.mark.parametrize("key", [None, {**KEY, "state": "dropped", "version": None}])
def test_a_key_that_is_gone_meanwhile_is_not_waited_for(
    path: Path, key: Mapping[str, Any] | None
) -> None:
    with agent(path, accepted("db"), status(*([key] if key else []))):
        assert refresh(path) != exit_codes.OK


def test_an_agent_that_was_restarted_is_waited_for(path: Path) -> None:
    waits = status({**KEY, "attempts": 0}, started_at=2)
    ended = status({**KEY, "attempts": 1}, tag="u", started_at=2)
    with agent(path, accepted("db", attempts=1), waits, ended):
        assert refresh(path) == exit_codes.OK


def test_the_wait_has_an_end(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with agent(path, accepted("db"), status({**KEY, "attempts": 3})):
        assert refresh(path, "--timeout", "0") == exit_codes.TEMPFAIL
    assert "no result after 0 s: db" in capsys.readouterr().err


@pytest.mark.parametrize("attempts", [None, "3", [3]])
def test_an_agent_that_does_not_count_attempts_is_named_as_older(
    path: Path, capsys: pytest.CaptureFixture[str], attempts: object
) -> None:
    with agent(path, accepted("db", attempts=attempts)):
        assert refresh(path) == exit_codes.UNAVAILABLE
    assert "client.garbage" in capsys.readouterr().err
