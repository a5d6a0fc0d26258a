"""A substitute for systemd that starts agents and keeps the descriptors they store.

Like systemd's file descriptor store (sd_pid_notify_with_fds(3), FDSTORE=1), it keeps a
stored descriptor while no agent runs, and passes it to the next agent by its name
(sd_listen_fds(3)).
"""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from support.agent import substitute
from support.deadlines import DEADLINE_SECONDS

DAEMON = Path(__file__).with_name("agent_daemon.py")


class FdStore:
    """Starts one agent after another in the same directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.kept: dict[str, int] = {}
        self.messages: list[bytes] = []
        self._changed = threading.Condition()
        self._agents: list[subprocess.Popen[bytes]] = []
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notified.bind(str(directory / "notify"))
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def configure(self, *aliases: str, more: str = "") -> None:
        allow = f"allow = [{{ user = {os.getuid()} }}]\n{more}"
        keys = "".join(
            f'[keys.{alias}]\nvault = "https://v.vault.azure.net"\n{allow}'
            for alias in aliases
        )
        (self.directory / "skragent.toml").write_text(
            f'[agent]\napi_socket = "{self.directory}/api.sock"\nmetrics_listen = ""\n'
            f'credentials_socket = ""\nadmin_socket = "{self.directory}/admin.sock"\n'
            f"{keys}"
        )

    def start(self, mode: str) -> subprocess.Popen[bytes]:
        """Start an agent with this releaser, and wait until the agent is ready."""
        return self.launch(self._command(mode))

    def refuse(self, mode: str) -> int:
        """Start an agent that does not become ready, and return its exit status."""
        return self._spawn(self._command(mode)).wait(DEADLINE_SECONDS)

    def launch(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start an agent with the stored descriptors, and wait until it is ready."""
        with self._changed:
            ready = self.messages.count(b"READY=1")
        agent = self._spawn(command)
        self.until(lambda: self.messages.count(b"READY=1") > ready)
        return agent

    def _command(self, mode: str) -> list[str]:
        config = str(self.directory / "skragent.toml")
        return [sys.executable, str(DAEMON), config, *substitute(mode)]

    def _spawn(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with self._changed:
            stored = dict(self.kept)
        # First duplicate to high numbers, so that dup2 to 3 and up overwrites none.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in stored.values()]
        passing = "".join(f" {3 + i}<&{fd} {fd}<&-" for i, fd in enumerate(high))
        variables = (
            f"LISTEN_PID=$$ LISTEN_FDS={len(stored)} LISTEN_FDNAMES={':'.join(stored)}"
        )
        script = f'{variables if stored else ""} exec "$@"{passing}'
        with (self.directory / "agent.log").open("ab") as log:
            agent = subprocess.Popen(
                ["/bin/bash", "-c", script, "-", *command],
                env=os.environ | {"NOTIFY_SOCKET": str(self.directory / "notify")},
                pass_fds=high,
                stdout=log,
                stderr=log,
            )
        for fd in high:
            os.close(fd)
        self._agents.append(agent)
        return agent

    def log(self) -> str:
        return (self.directory / "agent.log").read_text()

    def until(self, is_so: object) -> None:
        """Wait for a condition that a message of the agent causes."""
        assert callable(is_so)
        with self._changed:
            assert self._changed.wait_for(is_so, DEADLINE_SECONDS), self.log()

    def close(self) -> None:
        for agent in self._agents:
            agent.kill()
            agent.wait()
        self._notified.shutdown(socket.SHUT_RDWR)
        self._notified.close()
        for fd in self.kept.values():
            os.close(fd)

    def _listen(self) -> None:
        while True:
            try:
                message, fds, _, _ = socket.recv_fds(self._notified, 4096, 4)
            except OSError:
                return
            if not message:
                return
            with self._changed:
                self._receive(message, list(fds))
                self._changed.notify_all()

    def _receive(self, message: bytes, fds: list[int]) -> None:
        self.messages.append(message.partition(b"\n")[0])
        name = message.rpartition(b"FDNAME=")[2].decode()
        if message.startswith(b"FDSTORE=1"):
            (self.kept[name],) = fds
        elif message.startswith(b"FDSTOREREMOVE=1") and name in self.kept:
            os.close(self.kept.pop(name))
