"""Every command ends by itself if a TPM, the agent or a name service hangs."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.agent_process import Agent
from support.commands import COMMANDS, parser_of
from support.deadlines import DEADLINE_SECONDS
from support.evidence_swtpm import run_swtpm
from support.scripted_agent import agent as scripted_agent
from support.scripted_agent import document

from skragent import exit_codes

SHORT = Path(__file__).parents[1] / "support" / "short_deadline.py"
NONE_BY_NATURE = {"run", "emulator", "demo"}

# What getpwnam(3) does when the directory service does not answer: it waits in a
# system call. The thread that runs Python's signal handlers is this one.
HANGING_NAMES = """
import os, pwd
reader, _writer = os.pipe()
pwd.getpwnam = lambda _name: os.read(reader, 1)
"""


def start(
    seconds: float, *words: str | Path, code: str = "", stdout: int = subprocess.PIPE
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, SHORT, str(seconds), code, *words],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for the end; gives the exit code and stderr."""
    try:
        _, said = process.communicate(timeout=DEADLINE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, said


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_deadline_or_says_that_it_has_none(command: str) -> None:
    defaults = parser_of(command)._defaults
    assert "deadline" in defaults
    assert (defaults["deadline"] is None) == (command in NONE_BY_NATURE)


@pytest.mark.parametrize(
    ("command", "words", "seconds"),
    [
        ("get", {"wait": 0.0}, 30.0),
        ("get", {"wait": 600.0}, 630.0),
        ("wait", {"timeout": 90.0}, 120.0),
        ("status", {"watch": False}, 60.0),
        ("status", {"watch": True}, None),
    ],
)
def test_a_time_that_was_given_is_part_of_the_deadline(
    command: str, words: dict[str, object], seconds: float | None
) -> None:
    choose = parser_of(command)._defaults["deadline"]
    assert choose(argparse.Namespace(**words)) == seconds


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "skragent.toml"
    path.write_text(
        f'vtpm.tcti = "swtpm:path={tmp_path}/tpm/tpm.sock"\n'
        'imds.endpoint = "http://127.0.0.1:9"\n'
        '[keys.one]\nvault = "https://vault.example"\nallow = [{ user = "nobody" }]\n'
    )
    return path


@pytest.mark.swtpm
@pytest.mark.parametrize("is_before_the_connection", [True, False])
def test_a_tpm_that_does_not_answer(
    tmp_path: Path, config: Path, *, is_before_the_connection: bool
) -> None:
    (tmp_path / "tpm").mkdir()
    with run_swtpm(tmp_path / "tpm") as tpm, ExitStack() as stack:
        if is_before_the_connection:
            os.kill(tpm.pid, signal.SIGSTOP)
            stack.callback(os.kill, tpm.pid, signal.SIGCONT)
            code = ""
        else:  # it stops while a command is under way
            code = (
                "from skragent.evidence.tpm import Vtpm\n"
                "read = Vtpm.read_hcl_report\n"
                f"import os; stop = lambda: os.kill({tpm.pid}, {int(signal.SIGSTOP)})\n"
                "Vtpm.read_hcl_report = lambda self: (stop(), read(self))[1]\n"
            )
            stack.callback(os.kill, tpm.pid, signal.SIGCONT)
        process = start(2, "report", "--config", config, code=code)
        ended, said = end(process)
    assert ended == exit_codes.TEMPFAIL
    where = f"swtpm:path={tmp_path}/tpm/tpm.sock"
    assert (
        f"did not end within 2 s; the command was reading the TPM at {where}\n" in said
    )
    assert said.startswith("skragent: command.timeout: `skragent report` ")


def test_a_directory_service_that_does_not_answer(config: Path) -> None:
    code, said = end(start(1, "check-config", "--config", config, code=HANGING_NAMES))
    assert code == exit_codes.TEMPFAIL
    assert "skragent: command.timeout: `skragent check-config` " in said
    assert "the command was looking up users and groups" in said


def test_an_agent_that_is_stopped(tmp_path: Path) -> None:
    """The agent's socket takes connections still: the kernel accepts them."""
    stopped = Agent(tmp_path, "release")
    try:
        stopped.until(stopped.holds_key)
        stopped.process.send_signal(signal.SIGSTOP)
        api, admin = (f"--socket={tmp_path}/{n}.sock" for n in ("api", "admin"))
        commands: Sequence[tuple[str, ...]] = (
            ("get", "disk", api),
            ("get", "disk", "--wait", "1", api),
            ("wait", "disk", "--timeout", "1", api),
            ("status", admin),
            ("refresh", admin),
            ("drop", "disk", admin),
            ("reload", admin),
        )
        running = [start(15, *words) for words in commands]
        outcomes = [end(process) for process in running]
    finally:
        stopped.process.send_signal(signal.SIGCONT)
        stopped.process.terminate()
        stopped.process.communicate(timeout=DEADLINE_SECONDS)
        stopped.notified.close()
    for words, (code, said) in zip(commands, outcomes, strict=True):
        assert code == exit_codes.TEMPFAIL, words
        expected = "command.timeout" if words[0] == "reload" else "client.timeout"
        assert f"skragent: {expected}: " in said, words


@pytest.fixture
def big(tmp_path: Path) -> Iterator[Path]:
    """A socket whose answer is longer than a pipe takes."""
    path = tmp_path / "s"
    keys = [{"name": f"{i}", "state": "waiting"} for i in range(20_000)]
    for key in keys:
        key |= {"version": "", "released_at": None}  # type: ignore[dict-item]
    status = {"keys": keys, "version": "1", "state": "running"}
    with scripted_agent(path, document(status)):
        yield path


def test_a_reader_of_stdout_that_does_not_read(big: Path) -> None:
    reader, writer = os.pipe()
    try:
        process = start(3, "status", "--json", "--socket", big, stdout=writer)
        code, said = end(process)
    finally:
        os.close(reader)
        os.close(writer)
    assert code == exit_codes.TEMPFAIL
    assert "command.timeout" in said


def test_a_stderr_that_takes_nothing_does_not_keep_the_command(config: Path) -> None:
    reader, writer = os.pipe()
    flags = fcntl.fcntl(writer, fcntl.F_GETFL)
    fcntl.fcntl(writer, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while os.write(writer, b"x" * 4096):
            pass
    fcntl.fcntl(writer, fcntl.F_SETFL, flags)
    try:
        words = ("check-config", "--config", config)
        process = subprocess.Popen(
            [sys.executable, SHORT, "1", HANGING_NAMES, *words], stderr=writer
        )
        assert process.wait(DEADLINE_SECONDS) == exit_codes.TEMPFAIL
    finally:
        os.close(reader)
        os.close(writer)


def test_a_command_that_ends_in_time_is_not_told_of(config: Path) -> None:
    code, said = end(start(30, "check-config", "--config", config))
    assert (code, said) == (exit_codes.OK, "")


def test_an_imds_that_does_not_answer_leaves_the_report_its_own_message(
    tmp_path: Path,
) -> None:
    """IMDS has timeouts of its own, and they come first."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        path = tmp_path / "skragent.toml"
        path.write_text(
            f'imds.endpoint = "http://127.0.0.1:{silent.getsockname()[1]}"\n'
            "limits.request_timeout_seconds = 0.5\n"
            '[keys.one]\nvault = "https://vault.example"\n'
        )
        code = (
            "from skragent.cli import report_input\n"
            "from skragent.config import parse_config\n"
            f"config = parse_config(open({str(path)!r}).read())\n"
            "print(report_input._ask_certificates(config)[1])\n"
            "raise SystemExit(0)\n"
        )
        process = start(30, "report", code=code)
        out, _ = process.communicate(timeout=DEADLINE_SECONDS)
    assert out.startswith("transport.timeout: ")
