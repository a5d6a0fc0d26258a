"""The whole agent and LoadCredential=, with a test in systemd's place."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.agent import substitute
from support.deadlines import DEADLINE_SECONDS
from support.serving_credentials import CredentialRequest

pytestmark = pytest.mark.root  # systemd is root

DAEMON = Path(__file__).resolve().parents[1] / "support" / "agent_daemon.py"
KEY = b"k" * 32  # the substitute releaser's


class Systemd:
    """Starts agents, hears what they say, and keeps what they store."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "credentials.sock"
        self._config = directory / "skragent.toml"
        self._config.write_text(
            f'[agent]\napi_socket = "{directory}/api.sock"\nmetrics_listen = ""\n'
            f'credentials_socket = "{self.path}"\nadmin_socket = ""\n'
            '[keys.disk]\nvault = "https://v.vault.azure.net"\n'
            'allow = [{ unit = "web.service" }]\n'
        )
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notified.bind(str(directory / "notify"))
        self._notified.settimeout(DEADLINE_SECONDS)
        self._environment = os.environ | {"NOTIFY_SOCKET": str(directory / "notify")}
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, mode: str, stored: dict[str, int]) -> subprocess.Popen[bytes]:
        """Start the agent with what is stored for it; see sd_listen_fds(3)."""
        passing = "".join(f" {3 + i}<&{fd}" for i, fd in enumerate(stored.values()))
        names = ":".join(stored)
        variables = f"LISTEN_PID=$$ LISTEN_FDS={len(stored)} LISTEN_FDNAMES={names}"
        command = [sys.executable, DAEMON, self._config, *substitute(mode)]
        agent = subprocess.Popen(
            [
                "/bin/bash",
                "-c",
                f'{variables if stored else ""} exec "$@"{passing}',
                "-",
            ]
            + [str(word) for word in command],
            env=self._environment,
            pass_fds=list(stored.values()),
            stderr=subprocess.PIPE,
        )
        self._started.append(agent)
        return agent

    def until(self, what: bytes) -> tuple[bytes, list[int]]:
        """Wait until an agent says this; give it with its descriptors."""
        while True:
            said, fds, _, _ = socket.recv_fds(self._notified, 4096, 1)
            if said.startswith(what):
                return said, list(fds)

    def break_configuration(self) -> None:
        self._config.write_text(self._config.read_text() + "nonsense = 1\n")

    @contextlib.contextmanager
    def configuration_held_back(self) -> Iterator[tuple[Path, str]]:
        """Give a pipe in place of the configuration, and what belongs into it."""
        text = self._config.read_text()
        self._config.unlink()
        os.mkfifo(self._config)
        yield self._config, text

    def close(self) -> None:
        for agent in self._started:
            agent.kill()
            agent.communicate()
        self._notified.close()


@pytest.fixture
def systemd() -> Iterator[Systemd]:
    with tempfile.TemporaryDirectory() as name:
        one = Systemd(Path(name))
        yield one
        one.close()


def test_a_unit_gets_its_credential(systemd: Systemd) -> None:
    systemd.start("release", {})
    systemd.until(b"READY=1")
    assert CredentialRequest(systemd.path, "disk").read() == KEY


def test_an_agent_that_is_killed_while_a_unit_waits_answers_when_it_is_back(
    systemd: Systemd,
) -> None:
    request, name, fd = killed_while_a_unit_waits(systemd)
    assert not request.has_response()
    systemd.start("release", {name: fd})
    assert request.read() == KEY  # although systemd's copy, `fd`, is open still
    assert systemd.until(b"FDSTOREREMOVE=1")[0].endswith(name.encode())
    os.close(fd)


def test_an_agent_that_cannot_start_refuses_what_it_was_handed(
    systemd: Systemd,
) -> None:
    request, name, fd = killed_while_a_unit_waits(systemd)
    systemd.break_configuration()
    second = systemd.start("release", {name: fd})
    os.close(fd)
    assert request.is_rejected()
    assert second.wait(DEADLINE_SECONDS) != 0
    assert second.stderr is not None
    assert b"config.invalid" in second.stderr.read()


def test_an_agent_that_is_stopped_while_it_starts_refuses_what_it_was_handed(
    systemd: Systemd,
) -> None:
    request, name, fd = killed_while_a_unit_waits(systemd)
    with systemd.configuration_held_back() as (path, text):
        second = systemd.start("hang", {name: fd})
        os.close(fd)
        with path.open("w") as configuration:  # as soon as the agent wants to read it
            second.send_signal(signal.SIGTERM)
            configuration.write(text)
        assert request.is_rejected()
    assert second.wait(DEADLINE_SECONDS) == 0


def killed_while_a_unit_waits(systemd: Systemd) -> tuple[CredentialRequest, str, int]:
    """Return a waiting request, and systemd's copy of its connection."""
    first = systemd.start("hang", {})
    systemd.until(b"READY=1")
    request = CredentialRequest(systemd.path, "disk")
    said, (fd,) = systemd.until(b"FDSTORE=1")
    first.kill()
    first.wait(DEADLINE_SECONDS)
    return request, said.rpartition(b"FDNAME=")[2].decode(), fd
