"""Accept connections in batches, without blocking, and with pauses if accept fails.

A transport of asyncio costs more than a whole request here, and copies the bytes that
a slow reader does not accept. So the servers use sockets.

Callers can send descriptors along with bytes (SCM_RIGHTS, unix(7)). No server here
wants descriptors, but the kernel gives them to the reader, and the reader must close
them. That may take minutes: a TCP socket with SO_LINGER blocks in close(2). On the
thread of the event loop it would stop every server. Since Linux 6.16 a socket can
refuse descriptors. On older kernels `GuardedSocket` looks for descriptors before each
read (MSG_PEEK without a buffer for descriptors reports MSG_CTRUNC) and ends the
connection. A thread closes it.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Any, Final

from skragent.observe import Event, log

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from skragent.serving.http.interfaces import EventLoop

_BACKLOG: Final = 1024
# The most connections to accept before the event loop serves open connections again.
_BATCH: Final = 64
_PAUSE_SECONDS: Final = 1.0
_SO_PASSRIGHTS: Final = 83  # asm-generic/socket.h; Linux 6.16


class Acceptor:
    """Accepts connections on a listening socket.

    Args:
        sock: bound; may be listening already.
        take: receives each connection as a blocking socket.
    """

    def __init__(
        self, sock: socket.socket, take: Callable[[socket.socket], None]
    ) -> None:
        self._socket = sock
        self._take = take
        self._is_accepting = False
        self._loop: EventLoop | None = None

    def start(self, loop: EventLoop) -> None:
        """Begin to accept."""
        self._loop = loop
        self._socket.settimeout(0)
        self._socket.listen(_BACKLOG)
        self.resume()

    def resume(self) -> None:
        """Accept again after a pause."""
        fd = self._socket.fileno()
        if self._loop is not None and fd >= 0 and not self._is_accepting:
            self._is_accepting = True
            self._loop.add_reader(fd, self._on_acceptable)

    def pause(self) -> None:
        """Leave new connections in the backlog."""
        if self._loop is not None and self._is_accepting:
            self._is_accepting = False
            self._loop.remove_reader(self._socket.fileno())

    def close(self) -> None:
        """Close the socket. The kernel refuses the connections in the backlog."""
        self.pause()
        self._socket.close()

    def _on_acceptable(self) -> None:
        for _ in range(_BATCH):
            if not self._is_accepting:  # `take` has paused
                return
            try:
                connection, _address = self._socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptor or no memory left
                self._pause_accepting(error)
                return
            self._take(connection)

    def _pause_accepting(self, error: OSError) -> None:
        log(
            Event.CONNECTIONS_REFUSED,
            f"connections cannot be accepted now: {error.strerror}",
        )
        self.pause()
        if self._loop is not None:
            self._loop.call_later(_PAUSE_SECONDS, self.resume)


def refuse_descriptors(listener: socket.socket) -> None:
    """Refuse descriptors on connections made from now on, if the kernel can."""
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)


def may_bring_descriptors(connection: socket.socket) -> bool:
    """Return whether the peer may send descriptors.

    Connections made before `refuse_descriptors` may: systemd listens before the agent.
    """
    try:
        return bool(connection.getsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS))
    except OSError:
        return True


class GuardedSocket:
    """A connection whose peer may send descriptors. It ends if the peer sends any.

    Args:
        connection: accepted; owned by this object from now on.
        close_slowly: closes a socket in another thread.
    """

    def __init__(
        self,
        connection: socket.socket,
        close_slowly: Callable[[socket.socket], None],
    ) -> None:
        self._socket = connection
        self._close_slowly = close_slowly
        # Out-of-band bytes may carry descriptors as well. In line, MSG_PEEK sees them.
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._socket.fileno()

    def settimeout(self, value: float, /) -> None:
        """Make the socket non-blocking, with 0."""
        self._socket.settimeout(value)

    def recv_into(self, buffer: bytearray, nbytes: int = 0, flags: int = 0) -> int:
        """Read the bytes that have arrived.

        Raises:
            ConnectionAbortedError: the bytes carry descriptors; nothing was read.
        """
        room = memoryview(buffer)[: nbytes or len(buffer)]
        count, _, found, _ = self._socket.recvmsg_into(
            [room], 0, flags | socket.MSG_PEEK
        )
        if found & socket.MSG_CTRUNC:
            raise ConnectionAbortedError("the caller sent descriptors")
        return self._socket.recv_into(room, count, flags) if count else 0

    def sendmsg(
        self,
        buffers: Sequence[bytes | memoryview],
        ancdata: Sequence[Any] = (),
        flags: int = 0,
    ) -> int:
        """Send as much as the socket accepts, and return the number of bytes."""
        return self._socket.sendmsg(buffers, ancdata, flags)

    def close(self) -> None:
        """Close the connection; in a thread if unread bytes may carry descriptors."""
        with contextlib.suppress(OSError):  # the peer can send nothing after this
            self._socket.shutdown(socket.SHUT_RDWR)
        if self._is_empty():
            self._socket.close()
        else:
            self._close_slowly(self._socket)

    def _is_empty(self) -> bool:
        try:
            return not self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:  # the peer has closed, and its bytes are gone
            return True


def close_in_thread(connection: socket.socket, on_closed: Callable[[], object]) -> None:
    """Close a socket in a thread, which calls `on_closed` at the end."""

    def close() -> None:
        connection.close()
        with contextlib.suppress(RuntimeError):  # the event loop has ended
            on_closed()

    threading.Thread(target=close, name="close", daemon=True).start()
