"""Connections without sockets: bytes are fed by hand, and what is sent is seen."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

from support.serving import everybody_in
from typing_extensions import override

from skragent.observe import Counters
from skragent.serving.api import KeyApi
from skragent.serving.listener import Listener
from skragent.serving.wire import Connection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from skragent.keyring import Keyring
    from skragent.serving import Access, Limits


class FullSocket(asyncio.Transport):
    """A transport that takes `room` bytes, and the rest when it is told to.

    Behaves as uvloop's does with a high-water mark of 0.
    """

    def __init__(self, room: float = float("inf")) -> None:
        super().__init__()
        self.room = room
        self.sent = b""
        self.queued: list[bytes | memoryview] = []
        self.reads = True
        self.closed = False
        self.aborted = False
        self.protocol: Connection | None = None
        self._mine, self._theirs = socket.socketpair()

    @override
    def get_extra_info(self, name: str, default: object = None) -> object:
        return self._mine if name == "socket" else default

    @override
    def set_write_buffer_limits(
        self, high: int | None = None, low: int | None = None
    ) -> None:
        assert (high, low) == (0, None)

    @override
    def writelines(self, list_of_data: Iterable[Any]) -> None:
        assert not self.queued, "written while paused"
        assert not self.closed, "written after close"
        self.queued = list(list_of_data)
        self._send()
        if self.queued and self.protocol is not None:
            self.protocol.pause_writing()

    def make_room(self) -> None:
        """Let the reader take everything."""
        self.room = float("inf")
        self._send()
        assert self.protocol is not None
        self.protocol.resume_writing()
        if self.closed:
            self.protocol.connection_lost(None)

    def _send(self) -> None:
        data = b"".join(self.queued)
        count = int(min(len(data), self.room))
        self.sent += data[:count]
        self.room -= count
        self.queued = [data[count:]] if data[count:] else []

    @override
    def pause_reading(self) -> None:
        self.reads = False

    @override
    def resume_reading(self) -> None:
        self.reads = True

    @override
    def close(self) -> None:
        self.closed = True
        if not self.queued and self.protocol is not None:
            self.protocol.connection_lost(None)

    @override
    def abort(self) -> None:
        self.closed = self.aborted = True
        self.queued = []
        if self.protocol is not None:
            self.protocol.connection_lost(None)

    def release(self) -> None:
        self._mine.close()
        self._theirs.close()


class Wire:
    """A listener without a socket; connections are made by hand. Needs a loop."""

    def __init__(
        self,
        ring: Keyring,
        access: Access | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.counters = Counters()
        self.api = KeyApi(ring, access or everybody_in(ring), self.counters)
        with socket.socket(socket.AF_UNIX) as unbound:
            self.listener = Listener(
                unbound,
                self.api.handle,
                counters=self.counters,
                name="api",
                limits=limits,
            )
        self._transports: list[FullSocket] = []

    def connect(self, room: float = float("inf")) -> tuple[Connection, FullSocket]:
        transport = FullSocket(room)
        self._transports.append(transport)
        connection = transport.protocol = Connection(self.listener)
        connection.connection_made(transport)
        return connection, transport

    def pass_seconds(self, seconds: int) -> None:
        for _ in range(seconds):
            self.listener._sweep()

    async def close(self) -> None:
        await self.listener.close(0)
        for transport in self._transports:
            transport.release()


def feed(connection: Connection, data: bytes) -> None:
    """Let bytes arrive, as a loop would do it."""
    while data:
        buffer = connection.get_buffer(-1)
        part, data = data[: len(buffer)], data[len(buffer) :]
        buffer[: len(part)] = part
        connection.buffer_updated(len(part))


def on_wire(
    ring: Keyring,
    test: Callable[[Wire], None],
    *,
    access: Access | None = None,
    limits: Limits | None = None,
) -> None:
    """Run a test with a wire, inside of an event loop."""

    async def run() -> None:
        wire = Wire(ring, access, limits)
        try:
            test(wire)
        finally:
            await wire.close()

    asyncio.run(run())
