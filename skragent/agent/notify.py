"""What systemd gives us and is told: inherited sockets, readiness, status.

The one file that imports `systemd.daemon`, inside functions and only where systemd
asked for it: a laptop without libsystemd runs all the rest.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def inherited_sockets(environment: Mapping[str, str]) -> dict[str, socket.socket]:
    """Take the sockets that systemd listens on for us, by FileDescriptorName=.

    Source: sd_listen_fds(3). They are taken once: the variables are unset.
    """
    if "LISTEN_FDS" not in environment:
        return {}
    from systemd.daemon import listen_fds_with_names  # noqa: PLC0415 - see above

    names = listen_fds_with_names(unset_environment=True)
    return {name: socket.socket(fileno=fd) for fd, name in names.items()}


class Notifier:
    """Tells systemd (sd_notify(3)) where it wants to be told, and nobody elsewhere."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._is_wanted = "NOTIFY_SOCKET" in environment
        self._status = ""

    def ready(self, status: str) -> None:
        """Say that the sockets listen."""
        self._send(f"READY=1\nSTATUS={status}")

    def status(self, status: str) -> None:
        """Show one line in `systemctl status`."""
        if status != self._status:
            self._status = status
            self._send(f"STATUS={status}")

    def stopping(self) -> None:
        """Say that the end has begun."""
        self._send("STOPPING=1")

    def _send(self, state: str) -> None:
        if self._is_wanted:
            from systemd.daemon import notify  # noqa: PLC0415 - see above

            notify(state)
