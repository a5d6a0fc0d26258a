from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support.deadlines import DEADLINE_SECONDS

from skragent import __version__, exit_codes
from skragent.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = ("run", "get", "check-config", "report", "emulator", "demo")


def python(code: str, *, stdout: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-c", code], stdout=stdout, stderr=subprocess.PIPE
    )


def outcome_of(code: str) -> tuple[int, bytes, bytes]:
    process = python(code)
    out, err = process.communicate(timeout=DEADLINE_SECONDS)
    return process.returncode, out, err


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert __version__ in capsys.readouterr().out


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert all(re.search(rf"(?m)^ +{command}\b", said) for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_help(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"skragent {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [[], ["xyzzy"], ["get"], ["get", "k", "--wait", "-1"]]
)
def test_an_invalid_command_line_is_rejected(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == exit_codes.USAGE
    assert capsys.readouterr().err.startswith("usage: ")


def test_an_error_is_one_line_with_its_code_and_a_hint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "none.toml"
    assert main(["run", "--config", str(missing)]) == exit_codes.CONFIG
    line, hint = capsys.readouterr().err.splitlines()
    assert line == f"skragent: config.unreadable: {missing}: No such file or directory"
    assert hint.startswith("  ")


@pytest.mark.parametrize("command", ["run", "check-config", "report", "status", "get"])
def test_a_configuration_that_is_a_fifo_is_refused_without_waiting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    words = ["disk"] if command == "get" else []
    code = main([command, *words, "--config", str(fifo)])
    assert code == exit_codes.CONFIG
    assert f"{fifo}: this is a FIFO, not a regular file" in "".join(capsys.readouterr())


COMMAND = """
import sys, types, skragent.cli
from skragent.cli import main
def command(namespace):
    {body}
module = types.ModuleType("skragent.cli.get")
module.add_parser = lambda c: c.add_parser("get").set_defaults(run=command)
sys.modules["skragent.cli.get"] = module
sys.exit(main.main(["get"]))
"""


def test_a_bug_is_reported_without_traceback_and_message() -> None:
    code, _, err = outcome_of(COMMAND.format(body='raise ValueError("the secret")'))
    assert code == exit_codes.SOFTWARE
    assert err.startswith(b"skragent: internal: ValueError at ")
    assert b"Traceback" not in err
    assert b"the secret" not in err


def test_ctrl_c_is_quiet() -> None:
    code, _, err = outcome_of(COMMAND.format(body="raise KeyboardInterrupt"))
    assert (code, err) == (exit_codes.INTERRUPTED, b"")


def test_a_closed_pipe_is_not_an_error() -> None:
    process = python(COMMAND.format(body='print("x" * 1000000); return 0'))
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait(DEADLINE_SECONDS) == 0


def test_starting_the_agent_loads_no_library_that_it_does_not_need() -> None:
    code, out, _ = outcome_of(
        "import sys\n"
        "from skragent.cli.main import _build_parser\n"
        "import skragent.agent.releaser_process, skragent.agent.jobs\n"
        "import skragent.agent.socket_activation, skragent.agent.listeners\n"
        "import skragent.agent.clock, skragent.agent.systemd_notify\n"
        "_build_parser(['run'])\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))\n"
    )
    late = {"asyncio", "uvloop", "httptools", "tenacity", "logging", "systemd"}
    never = {"cryptography", "azure", "requests", "prometheus_client", "tpm2_pytss"}
    assert code == 0
    assert set(out.decode().split()) & (late | never) == set()


def test_the_daemon_loads_no_network_library() -> None:
    code, out, _ = outcome_of(
        "import sys, skragent.cli.run, skragent.agent.daemon\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))\n"
    )
    never = {"cryptography", "azure", "requests", "prometheus_client", "tpm2_pytss"}
    assert code == 0
    assert set(out.decode().split()) & never == set()
