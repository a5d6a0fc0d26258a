"""What systemd gives us, keeps for us and is told: sockets, readiness, status.

The one file that imports `systemd.daemon`, inside functions and only where systemd
asked for it: a laptop without libsystemd runs all the rest.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

# What the names of stored descriptors begin with: connections of units that wait for a
# credential, and memory of held keys.
_CREDENTIAL: Final = "credential-"
_KEY: Final = "key-"


@dataclass(frozen=True, slots=True)
class Inherited:
    """What systemd hands over when it starts us."""

    listeners: Mapping[str, socket.socket]  # by FileDescriptorName=
    credentials: tuple[tuple[str, socket.socket], ...] = ()  # stored connections
    keys: tuple[tuple[str, int], ...] = ()  # stored memory of held keys: descriptors


def inherited_sockets(environment: Mapping[str, str]) -> Inherited:
    """Take the sockets that systemd listens on or stores for us, by their names.

    Source: sd_listen_fds(3). They are taken once: the variables are unset. What has a
    name that is nobody's is closed: a descriptor that was stored is not stored again.
    """
    if "LISTEN_FDS" not in environment:
        return Inherited({})
    from systemd.daemon import listen_fds_with_names  # noqa: PLC0415 - see above

    listeners: dict[str, socket.socket] = {}
    credentials: list[tuple[str, socket.socket]] = []
    keys: list[tuple[str, int]] = []
    for fd, name in sorted(listen_fds_with_names(unset_environment=True).items()):
        if name.startswith(_KEY):
            keys.append((name, fd))
        elif name.startswith(_CREDENTIAL):
            credentials.append((name, socket.socket(fileno=fd)))
        else:
            listeners[name] = socket.socket(fileno=fd)
    return Inherited(listeners, tuple(credentials), tuple(keys))


class Notifier:
    """Tells systemd (sd_notify(3)) where it wants to be told, and nobody elsewhere."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.is_wanted = "NOTIFY_SOCKET" in environment  # systemd started us
        self._status = ""

    def ready(self, status: str) -> None:
        """Say that the sockets listen."""
        self._send(f"READY=1\nSTATUS={status}")

    def alive(self) -> None:
        """Say that the watchdog need not act yet."""
        self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """Say that the configuration is read again, until `reloaded`."""
        self._send("RELOADING=1")

    def reloaded(self) -> None:
        """Say that it was."""
        self._send("READY=1")

    def status(self, status: str) -> None:
        """Show one line in `systemctl status`."""
        if status != self._status:
            self._status = status
            self._send(f"STATUS={status}")

    def store_connection(self, fd: int) -> str:
        """Have systemd keep a copy of a connection until `remove_fd`, or its HUP."""
        return self._store_fd(fd, _CREDENTIAL)

    def store_key(self, fd: int) -> str:
        """Have systemd keep a copy of a held key's memory until `remove_fd`."""
        return self._store_fd(fd, _KEY)

    def _store_fd(self, fd: int, prefix: str) -> str:
        name = prefix + os.urandom(8).hex()
        self._send(f"FDSTORE=1\nFDNAME={name}", fd)
        return name

    def remove_fd(self, name: str) -> None:
        """Have systemd close its copy."""
        self._send(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def stopping(self) -> None:
        """Say that the end has begun."""
        self._send("STOPPING=1")

    def _send(self, state: str, *fds: int) -> None:
        if self.is_wanted:
            from systemd.daemon import notify  # noqa: PLC0415 - see above

            if fds:  # the library does not take None, its own default
                notify(state, fds=list(fds))
            else:
                notify(state)
