"""What serving needs of the world: an event loop and a socket. Tests have others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Loop(Protocol):
    """What is needed of an event loop."""

    def add_reader(self, fd: int, callback: Callable[[], object]) -> object:
        """See asyncio."""
        ...

    def remove_reader(self, fd: int) -> object:
        """See asyncio."""
        ...

    def add_writer(self, fd: int, callback: Callable[[], object]) -> object:
        """See asyncio."""
        ...

    def remove_writer(self, fd: int) -> object:
        """See asyncio."""
        ...

    def call_soon(self, callback: Callable[[], object]) -> object:
        """See asyncio."""
        ...

    def call_soon_threadsafe(self, callback: Callable[[], object]) -> object:
        """See asyncio."""
        ...

    def call_later(self, delay: float, callback: Callable[[], object]) -> Any:  # noqa: ANN401 - a handle
        """See asyncio."""
        ...


class Socket(Protocol):
    """What a connection needs of its socket; non-blocking."""

    def fileno(self) -> int:
        """Return the descriptor, to wait on."""
        ...

    def recv_into(self, buffer: bytearray, nbytes: int = 0, flags: int = 0) -> int:
        """Read what is there."""
        ...

    def sendmsg(
        self,
        buffers: Sequence[bytes | memoryview],
        ancdata: Sequence[Any] = (),
        flags: int = 0,
    ) -> int:
        """Send what can be sent at once; tell how much it was."""
        ...

    def settimeout(self, value: float, /) -> None:
        """Never block, with 0."""
        ...

    def close(self) -> None:
        """End the connection."""
        ...
