"""How a unit is refused a credential, and what an agent leaves to its successor.

A refusal is more than the 1 MiB that a unit's credentials may have (systemd:
CREDENTIALS_TOTAL_SIZE_MAX). Less of it would be a credential of zeros with which the
unit starts: one that has begun must be finished.

Before the first byte is sent a mark is left on the socket itself, where a successor
finds it that gets the connection from systemd's store. For it cannot know how much was
sent: to what may be whole nothing must be added but too much.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Final

TOO_MUCH_BYTES: Final = 1024 * 1024 + 1
_ZEROS: Final = bytes(64 * 1024)
SEND_FLAGS: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL

# SO_PRIORITY means nothing on Unix sockets, and anybody may set 0 to 6: socket(7).
_BEGUN: Final = 1


def mark_begun(connection: socket.socket) -> None:
    """Note on a connection that bytes may have been sent."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, _BEGUN)


def has_begun(connection: socket.socket) -> bool:
    """Tell whether an agent before us may have sent bytes."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY)
    return found == _BEGUN


class Rejection:
    """The bytes of one refusal, sent as the other end takes them."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._left = TOO_MUCH_BYTES
        mark_begun(connection)

    def send(self) -> bool:
        """Send what can be sent at once; tell whether that was all."""
        try:
            while self._left > 0:
                self._left -= self._connection.send(_ZEROS, SEND_FLAGS)
        except BlockingIOError:
            return False
        except OSError:  # it has read enough
            pass
        return True


def end(connection: socket.socket) -> None:
    """End a connection for systemd's copy of it, too; close(2) alone would not."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
