"""`skragent wait` against a substitute of the agent: for what, and how long."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.scripted_agent import agent, document, problem

from skragent import exit_codes
from skragent.cli.main import _build_parser, main


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


def wait(path: Path, *words: str) -> int:
    return main(["wait", "--socket", str(path), *words])


def status(tag: str = "t", **states: str) -> bytes:
    keys = [{"name": name, "state": state} for name, state in states.items()]
    return document({"keys": keys}, tag=tag)


@pytest.mark.parametrize("state", ["current", "stale"])
def test_a_key_that_is_served_is_held_though_its_refresh_is_overdue(
    path: Path, state: str
) -> None:
    with agent(path, status(db=state)):
        assert wait(path, "--timeout", "0") == exit_codes.OK


@pytest.mark.parametrize("state", ["waiting", "dropped"])
def test_a_key_that_is_not_served_is_not_held(
    path: Path, capsys: pytest.CaptureFixture[str], state: str
) -> None:
    with agent(path, status(db="current", web=state)):
        assert wait(path, "--timeout", "0") == exit_codes.TEMPFAIL
    said = capsys.readouterr().err
    assert said == f"skragent: serve.not_ready: not held after 0 s: web ({state})\n"


def test_only_named_keys_are_waited_for(path: Path) -> None:
    with agent(path, status(db="current", web="waiting")):
        assert wait(path, "db", "--timeout", "0") == exit_codes.OK


def test_a_key_that_is_named_is_waited_for(path: Path) -> None:
    with agent(path, status(db="current", web="waiting")):
        assert wait(path, "web", "--timeout", "0") == exit_codes.TEMPFAIL


def test_the_agent_holds_the_request_until_something_changes(path: Path) -> None:
    with agent(path, status("1", db="waiting"), status("2", db="current")) as requests:
        assert wait(path, "--timeout", "200") == exit_codes.OK
    first, second = requests
    assert first.startswith(b"GET /v1/status HTTP/1.1\r\n")
    assert second.startswith((b"GET /v1/status?wait=200", b"GET /v1/status?wait=19"))
    assert b'\r\nIf-None-Match: "1"\r\n' in second


def test_a_long_wait_is_several_requests(path: Path) -> None:
    unchanged = b"HTTP/1.1 304 Not Modified\r\n\r\n"
    held = status("2", db="current")
    with agent(path, status("1", db="waiting"), unchanged, held) as requests:
        assert wait(path, "--timeout", "1000") == exit_codes.OK
    assert all(b"/v1/status?wait=300.000 " in request for request in requests[1:])


def test_a_request_to_a_busy_agent_is_repeated(path: Path) -> None:
    with agent(path, problem(503, "serve.busy"), status(db="current")):
        assert wait(path, "--timeout", "10") == exit_codes.OK


def test_the_wait_for_an_agent_ends_at_the_timeout(
    path: Path,
) -> None:
    assert wait(path, "--timeout", "0.02") == exit_codes.TEMPFAIL


def test_a_permanent_error_ends_the_wait(path: Path) -> None:
    with agent(path, problem(404, "serve.not_found")):
        assert wait(path, "--timeout", "60") == exit_codes.UNAVAILABLE


@pytest.mark.parametrize("key", [{}, {"name": "db"}, {"name": 1, "state": "current"}])
def test_an_invalid_response_is_reported(
    path: Path, capsys: pytest.CaptureFixture[str], key: object
) -> None:
    with agent(path, document({"keys": [key]})):
        assert wait(path) == exit_codes.UNAVAILABLE
    assert "client.garbage" in capsys.readouterr().err


def test_the_default_timeout_is_that_of_the_help() -> None:
    assert _build_parser(["wait"]).parse_args(["wait"]).timeout == 90.0
