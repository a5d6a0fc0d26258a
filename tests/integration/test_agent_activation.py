"""The daemon on a socket that systemd made, by systemd's own tool for that."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.agent import run, substitute, until
from support.deadlines import DEADLINE_SECONDS, wait_until

from skragent import exit_codes
from skragent.client import SkragentClient, SkragentError

RT_SIGTIMEDWAIT = "128"  # on x86-64
DAEMON = Path(__file__).resolve().parents[1] / "support" / "agent_daemon.py"


def activate(
    directory: Path, name: str, *, releaser: str = "release", more: str = ""
) -> subprocess.Popen[bytes]:
    """Start the agent at the first connection to DIRECTORY/api.sock."""
    activator = shutil.which("systemd-socket-activate")
    if activator is None:
        pytest.skip("needs systemd-socket-activate")
    config = directory / "skragent.toml"
    config.write_text(
        '[agent]\napi_socket = "/nowhere/api.sock"\nmetrics_listen = ""\n'
        'credentials_socket = ""\nadmin_socket = ""\n'
        '[keys.disk]\nvault = "https://v.vault.azure.net"\n'
        f"allow = [{{ user = {os.getuid()} }}]\n{more}"
    )
    return subprocess.Popen(
        [
            *(activator, f"--fdname={name}", "-l", str(directory / "api.sock")),
            *(sys.executable, str(DAEMON), str(config), *substitute(*releaser.split())),
        ],
        stderr=subprocess.PIPE,
    )


def test_a_key_is_served_on_an_inherited_socket_which_is_left(tmp_path: Path) -> None:
    client = SkragentClient(str(tmp_path / "api.sock"))

    def is_served() -> bool:
        try:
            return client.get_bytes("disk", "raw") == b"k" * 32
        except SkragentError:
            return False

    agent = activate(tmp_path, "api")
    try:
        run(until(is_served))
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(DEADLINE_SECONDS) == 0
    finally:
        agent.kill()
        agent.communicate()
    assert (tmp_path / "api.sock").is_socket()


def test_a_socket_of_another_name_is_not_taken_for_ours(tmp_path: Path) -> None:
    agent = activate(tmp_path, "other")
    try:
        run(until((tmp_path / "api.sock").is_socket))
        with pytest.raises(SkragentError):
            SkragentClient(
                str(tmp_path / "api.sock"), timeout=DEADLINE_SECONDS
            ).list_keys()
        _, said = agent.communicate(timeout=DEADLINE_SECONDS)
    finally:
        agent.kill()
        agent.wait()
    assert b"listen.failed" in said


def connected(directory: Path) -> socket.socket:
    """Connect as soon as systemd-socket-activate listens, not only binds."""
    path = str(directory / "api.sock")
    caller = socket.socket(socket.AF_UNIX)
    run(until(lambda: caller.connect_ex(path) == 0))
    return caller


def wait_until_it_lingers(agent: subprocess.Popen[bytes]) -> None:
    """Wait until it is in sigtimedwait(2): proc(5), /proc/PID/syscall."""

    def lingers() -> bool:
        assert agent.poll() is None, "systemd would start it again at once"
        call = Path(f"/proc/{agent.pid}/syscall").read_text().split()
        return call[:1] == [RT_SIGTIMEDWAIT]

    wait_until(lingers)


UNKNOWN = """
[keys.tape]
vault = "https://v.vault.azure.net"
allow = [{ user = "no-such-user" }]
"""


@pytest.mark.root  # it looks at a process that is not dumpable
@pytest.mark.parametrize("is_still_there", [True, False])
@pytest.mark.parametrize(
    ("more", "told"),
    [("nonsense = 1\n", b"keys.disk.nonsense"), (UNKNOWN, b"keys.tape.allow[0].user")],
    ids=["before it listens", "when it listens"],
)
def test_an_agent_that_is_asked_and_cannot_start_tells_at_once_and_ends_later(
    tmp_path: Path, more: str, told: bytes, *, is_still_there: bool
) -> None:
    agent = activate(tmp_path, "api", more=more)
    try:
        with connected(tmp_path) as caller:
            if not is_still_there:
                caller.close()
            assert agent.stderr is not None
            lines = iter(agent.stderr.readline, b"")
            assert any(told in line for line in lines)
            wait_until_it_lingers(agent)
            agent.send_signal(signal.SIGTERM)
            assert agent.wait(DEADLINE_SECONDS) == exit_codes.CONFIG
    finally:
        agent.kill()
        agent.communicate()


@pytest.mark.root
def test_an_agent_that_cannot_go_on_answers_and_ends_later(tmp_path: Path) -> None:
    agent = activate(tmp_path, "api", releaser="failure evidence.not_a_cvm fatal")
    try:
        with connected(tmp_path) as caller:
            caller.settimeout(DEADLINE_SECONDS)
            assert caller.recv(1) == b"", "the connection must be closed"
            wait_until_it_lingers(agent)
            agent.send_signal(signal.SIGTERM)
            assert agent.wait(DEADLINE_SECONDS) == exit_codes.UNAVAILABLE
    finally:
        agent.kill()
        agent.communicate()
