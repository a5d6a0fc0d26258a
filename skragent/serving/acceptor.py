"""Accepting connections: some at once, never blocking, and with pauses when it must.

Not asyncio's servers: they make a transport of each connection, which costs more than
a whole request here, and copies what a slow reader does not take.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from skragent.observe import Event, log

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from skragent.serving.http.interfaces import Loop

_BACKLOG: Final = 1024
# Connections taken in before those that are open are looked at again.
_AT_ONCE: Final = 64
_PAUSE_SECONDS: Final = 1.0


class Acceptor:
    """Takes connections from a listening socket, and hands them on.

    Args:
        sock: bound; listening or not.
        take_in: is given each connection; it is blocking still.
    """

    def __init__(
        self, sock: socket.socket, take_in: Callable[[socket.socket], None]
    ) -> None:
        self._socket = sock
        self._take_in = take_in
        self._is_accepting = False
        self._loop: Loop | None = None

    def start(self, loop: Loop) -> None:
        """Begin."""
        self._loop = loop
        self._socket.settimeout(0)
        self._socket.listen(_BACKLOG)
        self.resume()

    def resume(self) -> None:
        """Accept; nothing is changed where that is so already."""
        fd = self._socket.fileno()
        if self._loop is not None and fd >= 0 and not self._is_accepting:
            self._is_accepting = True
            self._loop.add_reader(fd, self._on_acceptable)

    def pause(self) -> None:
        """Leave those who come in the backlog."""
        if self._loop is not None and self._is_accepting:
            self._is_accepting = False
            self._loop.remove_reader(self._socket.fileno())

    def close(self) -> None:
        """End; whoever is in the backlog is refused by the kernel."""
        self.pause()
        self._socket.close()

    def _on_acceptable(self) -> None:
        for _ in range(_AT_ONCE):
            if not self._is_accepting:  # who took the last one in had enough
                return
            try:
                connection, _address = self._socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptor is left, or no memory
                self._wait_for_better_times(error)
                return
            self._take_in(connection)

    def _wait_for_better_times(self, error: OSError) -> None:
        log(
            Event.CONNECTIONS_REFUSED,
            f"connections cannot be accepted now: {error.strerror}",
        )
        self.pause()
        if self._loop is not None:
            self._loop.call_later(_PAUSE_SECONDS, self.resume)
