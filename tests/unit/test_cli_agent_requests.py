"""What the commands that ask the agent choose: sockets, exit codes, pauses, hints."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from support.scripted_agent import agent, document, ok, problem

from skragent import exit_codes
from skragent.cli.agent_requests import (
    ADMIN_SOCKET,
    API_SOCKET,
    exit_code_of,
    hint_for_admin,
    hint_for_admin_request,
    hint_for_workload,
    pause_seconds,
    seconds,
    timeout_for,
)
from skragent.cli.main import main
from skragent.client import DEFAULT_SOCKET, SkragentError
from skragent.config import AgentConfig

DAY = 86400


def error(code: str, retry_after: float | None = None) -> SkragentError:
    return SkragentError(code, 0, "because", retry_after)


def test_the_sockets_are_those_of_an_agent_that_is_not_configured_otherwise() -> None:
    config = AgentConfig()
    assert config.admin_socket == ADMIN_SOCKET
    assert config.api_socket == API_SOCKET
    assert config.api_socket == DEFAULT_SOCKET


@pytest.mark.parametrize("command", ["refresh", "drop", "wait"])
def test_admin_commands_need_an_admin_socket(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    config = tmp_path / "skragent.toml"
    config.write_text(
        '[agent]\nadmin_socket = ""\n[keys.db]\nvault = "https://v.example"\n'
    )
    words = ["--all"] if command == "wait" else ["db"]
    code = main([command, *words, "--config", str(config)])
    assert code == exit_codes.CONFIG
    assert "config.no_socket: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("serve.denied", exit_codes.NOPERM),
        ("client.forbidden", exit_codes.NOPERM),
        ("serve.not_ready", exit_codes.TEMPFAIL),
        ("serve.busy", exit_codes.TEMPFAIL),
        ("serve.rate", exit_codes.TEMPFAIL),
        ("serve.connections", exit_codes.TEMPFAIL),
        ("client.unreachable", exit_codes.TEMPFAIL),
        ("client.timeout", exit_codes.TEMPFAIL),
        ("client.garbage", exit_codes.UNAVAILABLE),
        ("serve.not_acceptable", exit_codes.UNAVAILABLE),
    ],
)
def test_each_error_of_the_agent_has_an_exit_code(code: str, exit_code: int) -> None:
    assert exit_code_of(error(code)) == exit_code


@pytest.mark.parametrize("text", ["0", "0.5", str(DAY)])
def test_times_up_to_a_day_are_accepted(text: str) -> None:
    assert seconds(text) == float(text)


@pytest.mark.parametrize("text", ["-0.1", "86400.1", "nan", "inf", "1h", ""])
def test_negative_times_and_times_over_a_day_are_rejected(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must be from 0 to 86400"):
        seconds(text)


@pytest.mark.parametrize(
    ("retry_after", "left", "pause"),
    [(3.0, 10.0, 3.0), (3.0, 2.0, 2.0), (3.0, -1.0, 0.0), (None, 10.0, 0.1)],
)
def test_a_pause_follows_retry_after_within_the_time_left(
    retry_after: float | None, left: float, pause: float
) -> None:
    assert pause_seconds(error("serve.busy", retry_after), left) == pause


@pytest.mark.parametrize(
    ("left", "timeout"), [(60.0, 10.0), (10.0, 10.0), (2.5, 2.5), (0.0, 1.0)]
)
def test_the_timeout_of_one_attempt_is_limited(left: float, timeout: float) -> None:
    assert timeout_for(left) == timeout


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("client.forbidden", "Only members of the socket's group (skragent) may"),
        ("serve.denied", "`skragent status --socket /s` lists"),
        ("client.unreachable", "`systemctl status skragent`"),
        ("client.timeout", "`journalctl -u skragent`"),
    ],
)
def test_a_workloads_error_has_a_hint(code: str, hint: str) -> None:
    assert hint in hint_for_workload(error(code), "/s")


def test_the_hint_for_an_unavailable_format_lists_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    formats = ["application/jwk+json", "application/x-pem-file"]
    path = tmp_path / "s"
    with agent(path, problem(406, "serve.not_acceptable", formats=formats)):
        code = main(["get", "db", "--format", "raw", "--socket", str(path)])
    assert code == exit_codes.UNAVAILABLE
    hint = "The key is available as: application/jwk+json, application/x-pem-file."
    assert hint in capsys.readouterr().err


def test_the_hint_for_other_users_is_to_use_sudo() -> None:
    assert "sudo" in hint_for_admin(error("client.forbidden"))


def test_the_hint_for_another_socket_names_admin_sock() -> None:
    assert "admin.sock" in hint_for_admin_request(error("serve.method"))


def test_the_hint_after_a_timeout_says_that_the_agent_may_still_act() -> None:
    assert "may still carry it out" in hint_for_admin_request(error("client.timeout"))


def test_the_name_of_a_dropped_key_is_percent_encoded(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with agent(path, document({"dropped": "a b"})) as requests:
        assert main(["drop", "a b/..", "--socket", str(path)]) == exit_codes.OK
    assert requests[0].startswith(b"DELETE /v1/keys/a%20b%2F.. HTTP/1.1\r\n")


def test_a_request_without_a_body_has_content_length_0(tmp_path: Path) -> None:
    path = tmp_path / "s"
    answer = ok(b"application/json", b'{"refreshing": ["db"]}')
    with agent(path, answer.replace(b"200 OK", b"202 Accepted")) as requests:
        assert main(["refresh", "--socket", str(path)]) == exit_codes.OK
    assert b"\r\nContent-Length: 0\r\n" in requests[0]  # RFC 9110 §8.6


@pytest.mark.parametrize("content", [{}, {"refreshing": 1}, {"refreshing": [1]}])
def test_an_invalid_response_to_refresh_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: object
) -> None:
    path = tmp_path / "s"
    body = json.dumps(content).encode()
    head = b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\n"
    with agent(path, head + b"Content-Length: %d\r\n\r\n" % len(body) + body):
        assert main(["refresh", "--socket", str(path)]) == exit_codes.UNAVAILABLE
    assert "client.garbage" in capsys.readouterr().err


@pytest.mark.parametrize("needs_restart", [5, None, {}, "agent.api_socket", [1], [[]]])
def test_a_response_to_reload_with_another_type_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], needs_restart: object
) -> None:
    path = tmp_path / "s"
    with agent(path, document({"needs_restart": needs_restart})):
        assert main(["reload", "--socket", str(path)]) == exit_codes.UNAVAILABLE
    assert "skragent: client.garbage: " in capsys.readouterr().err


@pytest.mark.parametrize("formats", [5, True, {"a": 1}, "text", [1, None], [["x"]]])
def test_formats_of_another_type_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], formats: object
) -> None:
    body = {"code": "serve.not_acceptable", "detail": "because", "formats": formats}
    answer = document(body).replace(b"200 OK", b"406 X")
    path = tmp_path / "s"
    with agent(path, answer):
        assert main(["get", "k", "--socket", str(path)]) == exit_codes.UNAVAILABLE
    assert "serve.not_acceptable: key 'k': because" in capsys.readouterr().err
