"""`skragent status` against a substitute of the agent: rows, times, sockets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.scripted_agent import agent, document, problem

from skragent import exit_codes
from skragent.cli import status as status_command
from skragent.cli.main import main
from skragent.client import SkragentError
from skragent.client.exchange import exchange

NOW = 1767225600.0  # 2026-01-01T00:00Z
GONE = problem(404, "serve.not_found")  # ends a --watch
KEY: Mapping[str, Any] = {
    "name": "db",
    "state": "current",
    "version": "0123456789abcdef0123456789abcdef",
    "released_at": NOW - 90,
}
OF_ROOT: Mapping[str, Any] = {
    "due_at": None,
    "last_failure": None,
    "needs_attention": False,
    "repeats_nonce": True,
}
YOU: Mapping[str, Any] = {
    "uid": 1000,
    "gid": 100,
    "groups": [],
    "unit": "",
    "user_unit": "",
}


def for_root(**key: object) -> dict[str, Any]:
    """Write what admin.sock says; `key` changes its key."""
    return {
        "version": "1.0",
        "state": "ready",
        "started_at": NOW - 3600,
        "unit_rules": "none",
        "memory": "locked",
        "attestation": {
            "token_expires_at": NOW + 3600,
            "ak_certificate_expires_at": None,
        },
        "sockets": {
            "api": {"connections": 3},
            "admin": {"connections": 1},
            "metrics": {"connections": 2},
        },
        "keys": [{**KEY, **OF_ROOT, **key}],
    }


def for_workload(**you: object) -> dict[str, Any]:
    """Return the response of api.sock; `you` changes the caller."""
    return {
        "version": "1.0",
        "state": "ready",
        "you": {**YOU, **you},
        "keys": [dict(KEY)],
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the clock, and do not sleep."""
    monkeypatch.setattr("time.time", lambda: NOW)
    monkeypatch.setattr("time.sleep", lambda _: None)


def status(path: Path, *words: str) -> int:
    return main(["status", "--socket", str(path), *words])


def lines_of(
    path: Path, capsys: pytest.CaptureFixture[str], content: object
) -> list[str]:
    with agent(path, document(content)):
        assert status(path) == exit_codes.OK
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-5, "0s"),  # the clock was set back
        (0, "0s"),
        (59.9, "59s"),
        (60, "1m00s"),
        (3599, "59m59s"),
        (3600, "1h00m"),
        (86399, "23h59m"),
        (86400, "1d00h"),
        (90000, "1d01h"),
    ],
)
def test_the_age_is_the_time_since_the_release(
    path: Path, capsys: pytest.CaptureFixture[str], seconds: float, said: str
) -> None:
    _, row, *_ = lines_of(path, capsys, for_root(released_at=NOW - seconds))
    assert row.split() == ["db", "current", "01234567", said, "-", "-"]


def test_a_key_that_is_not_here_has_no_version_and_no_age(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = {"state": "waiting", "version": None, "released_at": None}
    _, row, *_ = lines_of(path, capsys, for_root(**key, last_failure="vault.denied"))
    assert row.split() == ["db", "waiting", "-", "-", "-", "vault.denied"]


def test_cause_and_remedy_stand_under_a_key_that_is_not_well(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failure = {
        "last_failure": "transport.dns",
        "last_failure_message": "v.vault.azure.net has no address",
        "last_failure_hint": "Check the private DNS zone.",
    }
    _, _, cause, remedy, *_ = lines_of(path, capsys, for_root(**failure))
    assert cause == "  cause: transport.dns: v.vault.azure.net has no address"
    assert remedy == "  remedy: Check the private DNS zone."


def test_a_held_key_that_a_denial_can_wipe_has_a_warning(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failure = {"last_failure": "release.denied.firewall", "wipe_at": NOW + 300}
    _, _, _, _, warning, *_ = lines_of(path, capsys, for_root(**failure))
    assert warning == (
        "  warning: if the denial is repeated at 2026-01-01 00:05:00 UTC or later,"
        " the agent wipes the held key"
    )


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("release.conflict", "No action is needed. The error is temporary."),
        ("of.a.newer.agent", "See of.a.newer.agent in skragent-errors(7)."),
    ],
)
def test_a_failure_without_a_hint_has_the_remedy_of_its_code(
    path: Path, capsys: pytest.CaptureFixture[str], code: str, expected: str
) -> None:
    _, _, _, remedy, *_ = lines_of(path, capsys, for_root(last_failure=code))
    assert remedy == f"  remedy: {expected}"


def test_a_dropped_key_says_how_it_comes_back(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, cause, remedy, *_ = lines_of(path, capsys, for_root(state="dropped"))
    assert cause == "  cause: an administrator dropped the key"
    assert "`skragent refresh db`" in remedy


def test_a_key_that_is_well_has_one_line(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, after, *_ = lines_of(path, capsys, for_root())
    assert after == ""


@pytest.mark.parametrize(
    ("due_at", "shown"),
    [(NOW + 60, "1m00s"), (NOW, "now"), (NOW - 1, "now"), (None, "-")],
)
def test_the_time_until_the_next_attempt_is_shown(
    path: Path, capsys: pytest.CaptureFixture[str], due_at: float | None, shown: str
) -> None:
    _, row, *_ = lines_of(path, capsys, for_root(due_at=due_at))
    assert row.split()[4] == shown


def test_root_is_told_of_the_agent_as_a_whole(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    *_, blank, version, up, token, ak, memory, units, api, admin = lines_of(
        path, capsys, for_root()
    )
    assert (blank, version) == ("", "agent 1.0: ready")
    assert ak == "AK certificate: not known yet"
    assert up == "up since 2025-12-31 23:00:00 UTC"
    assert token == "attestation token: until 2026-01-01 01:00:00 UTC"
    assert (memory, units) == ("key memory: locked", "rules on units: none")
    # The metrics are a port, and no socket with a name.
    assert (api, admin) == ("api.sock: 3 connections", "admin.sock: 1 connections")


def test_a_workload_is_not_told_what_only_root_may_know(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    headings, row, *_ = lines_of(path, capsys, for_workload())
    assert headings.split() == ["KEY", "STATE", "VERSION", "AGE"]
    assert row.split() == ["db", "current", "01234567", "1m30s"]


@pytest.mark.parametrize(
    ("you", "said"),
    [
        ({}, "you are uid 1000, groups 100"),
        ({"groups": [7, 8]}, "you are uid 1000, groups 100, 7, 8"),
        ({"unit": "a.service"}, "you are uid 1000, groups 100, unit a.service"),
        (
            {"unit": "user@1000.service", "user_unit": "b.service"},
            "you are uid 1000, groups 100, unit user@1000.service (b.service)",
        ),
    ],
)
def test_a_workload_sees_its_identity(
    path: Path, capsys: pytest.CaptureFixture[str], you: dict[str, Any], said: str
) -> None:
    assert lines_of(path, capsys, for_workload(**you))[-1] == said


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"keys": [{}]},
        {"keys": None},
        {**for_root(), "sockets": []},
        {**for_root(), "started_at": 1e300},
    ],
)
def test_an_invalid_response_is_reported(
    path: Path, capsys: pytest.CaptureFixture[str], content: object
) -> None:
    with agent(path, document(content)):
        assert status(path) == exit_codes.UNAVAILABLE
    assert "client.garbage" in capsys.readouterr().err


def config_with(directory: Path, *, admin: str) -> str:
    config = directory / "skragent.toml"
    config.write_text(
        f'[agent]\napi_socket = "{directory}/s"\nadmin_socket = "{admin}"\n'
        '[keys.db]\nvault = "https://v.example"\n'
    )
    return str(config)


@pytest.mark.parametrize("code", ["client.unreachable", "client.forbidden"])
def test_where_admin_sock_cannot_be_asked_on_api_sock_is(
    path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    code: str,
) -> None:
    admin = f"{tmp_path}/admin.sock"

    def ask(path: str, *more: Any) -> Any:  # noqa: ANN401 - exchange's
        if path == admin:  # the tests run as root, which is never forbidden
            raise SkragentError(code, 0, f"{admin}: no")
        return exchange(path, *more)

    monkeypatch.setattr(status_command, "exchange", ask)
    config = config_with(tmp_path, admin=admin)
    with agent(path, document(for_workload())):
        assert main(["status", "--config", config]) == exit_codes.OK
    said = capsys.readouterr()
    assert said.err == f"skragent: {admin}: no; trying {path}\n"
    assert "you are uid 1000" in said.out


def test_an_agent_without_an_admin_socket_is_asked_on_api_sock_at_once(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with agent(path, document(for_workload())):
        config = config_with(tmp_path, admin="")
        assert main(["status", "--config", config]) == exit_codes.OK
    assert capsys.readouterr().err == ""


def test_a_watch_lets_the_agent_hold_the_request_until_something_changes(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = document(for_root(), tag="1")
    changed = document(for_root(state="stale"), tag="2")
    with agent(path, shown, changed, GONE) as requests:
        status(path, "--watch")
    first, second, third = requests
    assert first.startswith(b"GET /v1/status HTTP/1.1\r\n")
    assert second.startswith(b"GET /v1/status?wait=300.000 ")
    assert b'\r\nIf-None-Match: "1"\r\n' in second
    assert b'\r\nIf-None-Match: "2"\r\n' in third
    rows = [r for r in capsys.readouterr().out.splitlines() if r.startswith("db")]
    assert [row.split()[1] for row in rows] == ["current", "stale"]


def test_a_watch_shows_nothing_where_nothing_changed(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unchanged = b"HTTP/1.1 304 Not Modified\r\n\r\n"
    shown = document(for_root(), tag="1")
    with agent(path, shown, unchanged, GONE):
        status(path, "--watch", "--json")
    said = capsys.readouterr()
    assert [json.loads(line)["state"] for line in said.out.splitlines()] == ["ready"]
    assert "serve.not_found" in said.err  # that it ended for, and nothing before


def test_a_watch_ends_where_time_cannot_mend_it(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with agent(path, document(for_root(), tag="1"), GONE):
        assert status(path, "--watch") == exit_codes.UNAVAILABLE
    assert "serve.not_found" in capsys.readouterr().err


def test_a_watch_asks_again_where_the_agent_has_too_much_to_do(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    busy = problem(503, "serve.busy")
    shown = document(for_root(), tag="1")
    with agent(path, shown, busy, busy, shown, GONE) as requests:
        assert status(path, "--watch") == exit_codes.UNAVAILABLE
    assert capsys.readouterr().err.count("trying again") == 1
    assert b"If-None-Match" not in requests[3]  # another agent's tags are not its own
