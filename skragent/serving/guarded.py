"""Descriptors that callers send along with their bytes (SCM_RIGHTS, unix(7)).

Nobody wants them here, and yet they are ours to close when the bytes are read or thrown
away, and that may take as long as their sender likes: a TCP socket with SO_LINGER takes
minutes. On the event loop's thread it would stop everything.

Linux 6.16 lets a socket refuse them. Before that each read looks first: MSG_PEEK with
no room for descriptors says MSG_CTRUNC where there are some, and leaves them. What may
have brought some is closed in a thread of its own.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_SO_PASSRIGHTS: Final = 83  # asm-generic/socket.h; Linux 6.16


def refuse_descriptors(listener: socket.socket) -> None:
    """Have whoever connects from now on refused to send any, where the kernel can."""
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)


def may_bring_descriptors(connection: socket.socket) -> bool:
    """Tell whether the other end may have sent some.

    Whoever connected before `refuse_descriptors` may: systemd listened before us.
    """
    try:
        return bool(connection.getsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS))
    except OSError:
        return True


class GuardedSocket:
    """A connection whose other end may send descriptors: one that does is ended.

    Args:
        connection: accepted; ours from now on.
        close_slowly: closes a socket elsewhere than on this thread.
    """

    def __init__(
        self,
        connection: socket.socket,
        close_slowly: Callable[[socket.socket], None],
    ) -> None:
        self._socket = connection
        self._close_slowly = close_slowly
        # Out-of-band bytes may bring some as well: in line, they are seen like others.
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)

    def fileno(self) -> int:
        """Return the descriptor, to wait on."""
        return self._socket.fileno()

    def settimeout(self, value: float, /) -> None:
        """Never block, with 0."""
        self._socket.settimeout(value)

    def recv_into(self, buffer: bytearray, nbytes: int = 0, flags: int = 0) -> int:
        """Read what is there.

        Raises:
            ConnectionAbortedError: there are descriptors with it; nothing was read.
        """
        room = memoryview(buffer)[: nbytes or len(buffer)]
        count, _, found, _ = self._socket.recvmsg_into(
            [room], 0, flags | socket.MSG_PEEK
        )
        if found & socket.MSG_CTRUNC:
            raise ConnectionAbortedError("descriptors were sent")
        return self._socket.recv_into(room, count, flags) if count else 0

    def sendmsg(
        self,
        buffers: Sequence[bytes | memoryview],
        ancdata: Sequence[Any] = (),
        flags: int = 0,
    ) -> int:
        """Send what can be sent at once; tell how much it was."""
        return self._socket.sendmsg(buffers, ancdata, flags)

    def close(self) -> None:
        """End the connection: at once where nothing can come along with that."""
        with contextlib.suppress(OSError):  # nothing more comes from now on
            self._socket.shutdown(socket.SHUT_RDWR)
        if self._is_empty():
            self._socket.close()
        else:
            self._close_slowly(self._socket)

    def _is_empty(self) -> bool:
        try:
            return not self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:  # the other end has gone, with all that it sent
            return True


def close_in_thread(connection: socket.socket, is_closed: Callable[[], object]) -> None:
    """Close a socket, however long that takes; `is_closed` is called in that thread."""

    def close() -> None:
        connection.close()
        with contextlib.suppress(RuntimeError):  # the loop ended meanwhile
            is_closed()

    threading.Thread(target=close, name="close", daemon=True).start()
