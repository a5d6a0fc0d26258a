"""The daemon on a socket that systemd made, by systemd's own tool for that."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.agent import run, substitute, until

from skragent.client import SkragentClient, SkragentError

DAEMON = Path(__file__).resolve().parents[1] / "support" / "agent_daemon.py"


def activate(directory: Path, name: str) -> subprocess.Popen[bytes]:
    """Start the agent at the first connection to DIRECTORY/api.sock."""
    activator = shutil.which("systemd-socket-activate")
    if activator is None:
        pytest.skip("needs systemd-socket-activate")
    config = directory / "skragent.toml"
    config.write_text(
        '[agent]\napi_socket = "/nowhere/api.sock"\nmetrics_listen = ""\n'
        'credentials_socket = ""\nadmin_socket = ""\n'
        '[keys.disk]\nvault = "https://v.vault.azure.net"\n'
        f"allow = [{{ user = {os.getuid()} }}]\n"
    )
    return subprocess.Popen(
        [
            *(activator, f"--fdname={name}", "-l", str(directory / "api.sock")),
            *(sys.executable, DAEMON, config, *substitute("release")),
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
        assert agent.wait(5) == 0
    finally:
        agent.kill()
        agent.communicate()
    assert (tmp_path / "api.sock").is_socket()


def test_a_socket_of_another_name_is_not_taken_for_ours(tmp_path: Path) -> None:
    agent = activate(tmp_path, "other")
    try:
        run(until((tmp_path / "api.sock").is_socket))
        with pytest.raises(SkragentError):
            SkragentClient(str(tmp_path / "api.sock"), timeout=5).list_keys()
        _, said = agent.communicate(timeout=10)
    finally:
        agent.kill()
        agent.wait()
    assert b"listen.failed" in said
