"""Notify systemd of the agent's state: sd_notify(3).

The agent does not use libsystemd for this: its sd_notify() waits while the receiver's
queue is full, and the event loop must not wait. The protocol is stable: see "Notes" in
sd_notify(3).
"""

from __future__ import annotations

import array
import errno
import os
import select
import socket
from typing import TYPE_CHECKING, Final

from skragent.agent.socket_activation import CREDENTIAL_PREFIX, KEY_PREFIX

if TYPE_CHECKING:
    from collections.abc import Mapping

# systemd reads its queue within microseconds. If the queue is full, the event loop
# waits a fraction of a second, and after the first failure it does not wait.
_ATTEMPTS: Final = 10
_PAUSE_SECONDS: Final = 0.02


class Notifier:
    """Notifies systemd if NOTIFY_SOCKET is set.

    The agent serves keys even if a notification cannot be sent. The first such failure
    after a success is logged.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.is_wanted = "NOTIFY_SOCKET" in environment  # systemd started us
        self._path = environment.get("NOTIFY_SOCKET", "")
        self._has_failed = False
        self._status = ""

    def ready(self, status: str) -> None:
        """Notify systemd that the sockets listen."""
        self._send(f"READY=1\nSTATUS={status}")

    def alive(self) -> None:
        """Reset the watchdog."""
        self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """Notify systemd that a reload has begun."""
        self._send("RELOADING=1")

    def reloaded(self) -> None:
        """Notify systemd that a reload has ended."""
        self._send("READY=1")

    def status(self, status: str) -> None:
        """Show one line in `systemctl status`."""
        if status != self._status:
            self._status = status
            self._send(f"STATUS={status}")

    def store_connection(self, fd: int) -> str:
        """Store a copy of a connection in systemd until `remove_fd`, or until its HUP.

        Returns the name of the copy; empty if it is not stored.
        """
        return self._store_fd(fd, CREDENTIAL_PREFIX)

    def store_key(self, fd: int) -> str:
        """Store a descriptor of a held key's memory in systemd until `remove_fd`.

        Returns the name of the copy; empty if it is not stored.
        """
        return self._store_fd(fd, KEY_PREFIX)

    def _store_fd(self, fd: int, prefix: str) -> str:
        name = prefix + os.urandom(8).hex()
        is_sent = self._send(f"FDSTORE=1\nFDNAME={name}", fd)
        return name if is_sent else ""

    def remove_fd(self, name: str) -> bool:
        """Close the copy in systemd; return whether systemd was notified."""
        return not name or self._send(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def stopping(self) -> None:
        """Notify systemd that the agent is stopping."""
        self._send("STOPPING=1")

    def _send(self, state: str, *fds: int) -> bool:
        """Send a notification; return whether it was sent."""
        if not self.is_wanted:
            return False
        try:
            self._deliver(state.encode(errors="replace"), fds)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            self._log_once(error)
            return False
        self._has_failed = False
        return True

    def _deliver(self, state: bytes, fds: tuple[int, ...]) -> None:
        """Send a datagram, with descriptors.

        Raises:
            OSError: it cannot be sent at once.
            ValueError: the address is malformed.
        """
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
        address, flags = _address(self._path), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
        attempts = 1 if self._has_failed else _ATTEMPTS
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            while True:
                attempts -= 1
                try:
                    sock.sendmsg([state], [rights] if fds else [], flags, address)
                except BlockingIOError:
                    if attempts == 0:
                        raise
                    select.select((), (), (), _PAUSE_SECONDS)
                else:
                    return

    def _log_once(self, error: Exception) -> None:
        if self._has_failed:
            return
        self._has_failed = True
        from skragent.observe import Event, log  # noqa: PLC0415 - rare, and slow to import

        why = getattr(error, "strerror", None) or str(error)
        log(
            Event.NOTIFY_FAILED,
            f"systemd cannot be notified of the agent's state: NOTIFY_SOCKET"
            f" {self._path!r}: {why}. The agent goes on. If systemd did not start it,"
            " unset NOTIFY_SOCKET.",
        )


def _address(path: str) -> str:
    """Return NOTIFY_SOCKET as the address of a Unix socket.

    Raises:
        OSError: it is not such an address.
    """
    if path.startswith("/"):
        return path
    if path.startswith("@") and len(path) > 1:  # abstract: unix(7)
        return "\0" + path[1:]
    # vsock:CID:PORT is for a virtual machine's PID 1, which notifies its host.
    raise OSError(errno.EAFNOSUPPORT, "it is neither a path nor an abstract name")
