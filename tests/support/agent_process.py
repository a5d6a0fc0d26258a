"""The daemon as a real process, with a substitute for its releaser."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from support.agent import substitute
from support.deadlines import DEADLINE_SECONDS, wait_until

from skragent.client import SkragentClient, SkragentError

DAEMON = Path(__file__).with_name("agent_daemon.py")
KEY = b"k" * 32  # the substitute's


class Agent:
    """One agent in a directory of its own.

    Args:
        directory: for its configuration and its sockets.
        mode: what the releaser does: see agent_releaser.
        arguments: of the releaser.
        systemd: whether the agent gets NOTIFY_SOCKET and WATCHDOG_USEC.
        terminal: the descriptor of one that controls it; else it has none.
        agent: what else its configuration says in [agent].
        text: how its configuration goes on, after the key's name and vault.
        before: the command that starts the daemon's script.
    """

    def __init__(
        self,
        directory: Path,
        mode: str,
        *arguments: str,
        systemd: bool = True,
        terminal: int | None = None,
        agent: str = 'metrics_listen = ""',
        text: str = "",
        before: Sequence[str] = (sys.executable,),
    ) -> None:
        self.socket = directory / "api.sock"
        self.client = SkragentClient(str(self.socket))
        config = directory / "skragent.toml"
        allow = f"allow = [{{ user = {os.getuid()} }}]\n"
        config.write_text(
            f'[agent]\napi_socket = "{self.socket}"\n{agent}\n'
            f'credentials_socket = "{directory}/credentials.sock"\n'
            f'admin_socket = "{directory}/admin.sock"\n'
            '[keys.disk]\nvault = "https://v.vault.azure.net"\n'
            f"{text or allow}"
        )
        self.notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notified.bind(str(directory / "notify"))
        self.notified.settimeout(DEADLINE_SECONDS)
        variables = {
            "NOTIFY_SOCKET": str(directory / "notify"),
            "WATCHDOG_USEC": "3000000",
        }
        session = ["setsid"] if terminal is None else ["setsid", "--ctty"]
        self.process = subprocess.Popen(
            [*session, *before, DAEMON, config, *substitute(mode, *arguments)],
            stderr=subprocess.PIPE,
            env=os.environ | (variables if systemd else {}),
            stdin=terminal,
        )

    def until_notified(self, what: bytes) -> None:
        while what not in self.notified.recv(4096):
            pass

    def fetch(self) -> bytes:
        return self.client.get_bytes("disk", "raw")

    def until(self, is_so: Callable[[], bool]) -> None:
        wait_until(is_so)

    def holds_key(self) -> bool:
        try:
            return self.fetch() == KEY
        except SkragentError:
            return False

    def trouble(self) -> str:
        """The code that a caller is shown while there is no key."""
        try:
            self.fetch()
        except SkragentError as error:
            return error.detail
        return ""
