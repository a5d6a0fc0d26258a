"""The daemon as a real process, with a substitute for its releaser."""

from __future__ import annotations

import os
import pty
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.agent import substitute
from support.agent_process import DAEMON, Agent
from support.deadlines import DEADLINE_SECONDS
from support.serving_server import count_in_memory

# Neither a caller that stalls nor a releaser that hangs ends before a test gives up.
PATIENT = (
    f"allow = [{{ user = {os.getuid()} }}]\n[limits]\nrequest_timeout_seconds = 300\n"
)
# The daemon waits longer for a slow caller than a test waits for the daemon.
PATIENT_DAEMON = """
import dataclasses, runpy, sys
from skragent.serving import Limits
limits = dataclasses.replace(Limits(), head_timeout_seconds=300)
Limits.for_connections = lambda _: limits
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    agents: list[Agent] = []

    def begin(
        mode: str,
        *arguments: str,
        systemd: bool = True,
        terminal: int | None = None,
        text: str = "",
        before: tuple[str, ...] = (sys.executable,),
    ) -> Agent:
        directory = tmp_path / str(len(agents))
        directory.mkdir()
        agents.append(
            Agent(
                directory,
                mode,
                *arguments,
                systemd=systemd,
                terminal=terminal,
                text=text,
                before=before,
            )
        )
        return agents[-1]

    yield begin
    for agent in agents:
        agent.process.kill()
        agent.process.communicate()
        agent.notified.close()


def test_a_released_key_is_served_and_systemd_is_told(
    start: Callable[..., Agent],
) -> None:
    agent = start("release")
    agent.until_notified(b"READY=1")
    agent.until(agent.holds_key)
    agent.process.send_signal(signal.SIGTERM)
    agent.until_notified(b"STOPPING=1")
    assert agent.process.wait(DEADLINE_SECONDS) == 0
    assert not agent.socket.exists()


def test_sigterm_ends_the_agent_while_clients_wait_and_the_releaser_hangs(
    start: Callable[..., Agent],
) -> None:
    before = (sys.executable, "-c", PATIENT_DAEMON)
    agent = start("hang", text=PATIENT, before=before)
    agent.until_notified(b"READY=1")
    with socket.socket(socket.AF_UNIX) as stalled:
        stalled.connect(str(agent.socket))
        stalled.sendall(b"GET /v1/keys HTTP/1.1\r\nHos")
        agent.process.send_signal(signal.SIGTERM)
        assert agent.process.wait(DEADLINE_SECONDS) == 0


def test_systemds_watchdog_hears_of_it_again_and_again(
    start: Callable[..., Agent],
) -> None:
    agent = start("hang")
    agent.until_notified(b"READY=1")
    for _ in range(2):
        agent.until_notified(b"WATCHDOG=1")


def test_sighup_reloads_and_systemd_is_told(start: Callable[..., Agent]) -> None:
    agent = start("release")
    agent.until_notified(b"READY=1")
    agent.until(agent.holds_key)
    agent.process.send_signal(signal.SIGHUP)
    agent.until_notified(b"RELOADING=1")
    agent.until_notified(b"READY=1")
    assert agent.holds_key()


def test_an_agent_without_systemd_and_terminal_reloads_on_sighup(
    start: Callable[..., Agent],
) -> None:
    agent = start("release", systemd=False)
    agent.until(agent.holds_key)
    agent.process.send_signal(signal.SIGHUP)
    assert agent.process.stderr is not None
    assert any(b"reloaded" in line for line in agent.process.stderr)
    assert agent.holds_key()


def test_the_end_of_its_terminal_ends_it(start: Callable[..., Agent]) -> None:
    ours, its = pty.openpty()
    agent = start("release", systemd=False, terminal=its)
    os.close(its)
    agent.until(agent.holds_key)
    os.close(ours)
    assert agent.process.wait(DEADLINE_SECONDS) == 0


def test_only_owner_and_group_may_connect(start: Callable[..., Agent]) -> None:
    agent = start("hang")
    agent.until_notified(b"READY=1")
    assert stat.S_IMODE(agent.socket.stat().st_mode) == 0o660


def test_a_second_agent_on_the_same_socket_is_refused(
    start: Callable[..., Agent], tmp_path: Path
) -> None:
    first = start("release")
    first.until_notified(b"READY=1")
    second = subprocess.run(
        [sys.executable, DAEMON, tmp_path / "0/skragent.toml", *substitute("hang")],
        capture_output=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert second.stderr.startswith(b"listen.in_use")
    first.until(first.holds_key)


def test_a_socket_left_by_a_killed_agent_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "api.sock"))
    agent = Agent(tmp_path, "release")
    try:
        agent.until(agent.holds_key)
    finally:
        agent.process.kill()
        agent.process.communicate()
        agent.notified.close()


def test_a_killed_agent_takes_its_releaser_with_it(
    start: Callable[..., Agent], tmp_path: Path
) -> None:
    written = tmp_path / "pid"
    agent = start("hang", str(written))
    agent.until(lambda: written.exists() and written.read_text() != "")
    agent.process.kill()
    agent.process.wait()
    releaser = Path("/proc", written.read_text(), "stat")
    agent.until(lambda: not releaser.exists() or ") Z " in releaser.read_text())


def test_a_file_in_the_place_of_the_socket_is_refused_and_left(tmp_path: Path) -> None:
    (tmp_path / "api.sock").write_text("precious")
    agent = Agent(tmp_path, "release")
    try:
        _, said = agent.process.communicate(timeout=DEADLINE_SECONDS)
    finally:
        agent.notified.close()
    assert said.startswith(b"listen.not_a_socket")
    assert (tmp_path / "api.sock").read_text() == "precious"


@pytest.mark.parametrize(
    ("mode", "code"),
    [("garbage", "releaser.garbage"), ("crash-late", "releaser.crashed")],
)
def test_a_releaser_that_fails_leaves_the_agent_well_and_is_named(
    start: Callable[..., Agent], mode: str, code: str
) -> None:
    agent = start(mode)
    agent.until_notified(b"READY=1")
    agent.until(lambda: code in agent.trouble())
    assert agent.client.list_keys()[0]["state"] == "waiting"


def test_a_fatal_failure_ends_the_agent_with_a_code_that_is_not_restarted(
    start: Callable[..., Agent],
) -> None:
    agent = start("failure", "evidence.not_a_cvm", "fatal")
    assert agent.process.wait(DEADLINE_SECONDS) == 69
    assert agent.process.stderr is not None
    assert b"evidence.not_a_cvm" in agent.process.stderr.read()


@pytest.mark.root
def test_what_it_takes_to_go_on_with_a_token_is_in_secret_memory_only(
    start: Callable[..., Agent], tmp_path: Path
) -> None:
    file = tmp_path / "unique"
    agent = start("go-on-later", str(file))
    agent.until(agent.holds_key)  # so the second job had it
    unique = bytes.fromhex(file.read_text())
    token = f"token of {file}".encode()
    assert count_in_memory(agent.process.pid, token) > 0  # the scanner does see
    assert count_in_memory(agent.process.pid, unique[:32]) == 0
    assert count_in_memory(agent.process.pid, unique[-32:]) == 0
