"""Counts round trips to the emulator by letting them happen one after the other.

A relay stands before each service and holds back what clients send. A test waits until
it is sent all that can be sent before an answer comes, and then lets one round trip
happen on all connections at once. So the trips that a client makes are as many as those
that depend on each other, however long anything takes. As on a wire:

- the first bytes of a connection are held for one trip more: the handshake of TCP;
- a trip carries at most what TCP has in flight: ten segments at first (RFC 6928), and
  then as much more as was acknowledged.

What a server answers in a trip is part of it. A request that is still being sent when
its trip begins has not seen any answer, so that the rest of it goes with the trip.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING

from support.deadlines import DEADLINE_SECONDS

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from skragent.emulator.delay_relay import Connect

_WINDOW_BYTES = 10 * 1448
_READ_BYTES = 64 * 1024
# With which a client's handshake of TLS 1.3 ends (RFC 8446 §4.4.4, and the record that
# §D.4 adds). It goes with the first request, and is none.
_FINISHED_BYTES = 80


class _Way:
    """One direction of a connection: what has come, and what may go in this trip."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._held = bytearray()
        self._window = _WINDOW_BYTES
        self._carried = 0  # in this trip
        self._has_ended = False

    @property
    def holds_a_request(self) -> bool:
        """Whether there is more to carry than the end of a handshake."""
        return len(self._held) > _FINISHED_BYTES

    def put(self, data: bytes) -> None:
        """Hold what has come; nothing is the end of it."""
        self._held += data
        self._has_ended = not data
        self._end()

    def begin_trip(self) -> None:
        """Acknowledge what the last one carried."""
        self._window += self._carried
        self._carried = 0

    def carry(self) -> None:
        """Send what fits into this trip."""
        piece = self._held[: self._window - self._carried]
        del self._held[: len(piece)]
        self._carried += len(piece)
        if piece:
            self._writer.write(piece)
        self._end()

    def _end(self) -> None:
        if self._has_ended and not self._held and self._writer.can_write_eof():
            self._writer.write_eof()


class _Connection:
    """A client's connection to a service, which is named by its port."""

    def __init__(self, port: int, there: _Way, back: _Way) -> None:
        self.port = port
        self.is_established = False
        self.there = there
        self.back = back
        self.is_sending = False  # within a trip that has not been answered yet

    @property
    def waits(self) -> bool:
        """Whether its client needs another trip."""
        return not self.is_established or self.there.holds_a_request

    def travel(self) -> None:
        """Make one round trip."""
        self.there.begin_trip()
        self.back.begin_trip()
        self.back.carry()
        self.is_sending = self.is_established and self.there.holds_a_request
        if self.is_established:
            self.there.carry()
        self.is_established = True

    def send(self, data: bytes) -> None:
        """Take what the client sends."""
        self.there.put(data)
        if self.is_sending:
            self.there.carry()

    def answer(self, data: bytes) -> None:
        """Take what the server sends."""
        self.is_sending = False
        self.back.put(data)
        self.back.carry()


class RoundTrips:
    """All connections to an emulator, whose relays it makes; used in its loop."""

    def __init__(self) -> None:
        self.count = 0
        self.names: dict[int, str] = {}  # of the services, by their ports
        self._connections: list[_Connection] = []
        self._changed = asyncio.Event()

    def relay(self, connect: Connect) -> LockStepRelay:
        """Make the relay in front of a service."""
        return LockStepRelay(connect, self)

    async def travel(self, waiting: Mapping[str, int]) -> None:
        """Let one round trip happen on all connections.

        Args:
            waiting: how many connections to each service must wait for it first, and
                be new, or have sent something.
        """
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while not self._waiting() >= Counter(waiting):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            found = f"trip {self.count + 1} carries {dict(self._waiting())}"
            raise AssertionError(f"{found}, and was to carry {waiting}") from None
        self.count += 1
        for connection in self._connections:
            connection.travel()

    def _waiting(self) -> Counter[str]:
        waiting = (c.port for c in self._connections if c.waits)
        return Counter(self.names.get(port, str(port)) for port in waiting)

    def add(self, connection: _Connection) -> None:
        """Take a new connection."""
        self._connections.append(connection)
        self.notice()

    def notice(self) -> None:
        """Look again at what waits."""
        self._changed.set()


class LockStepRelay:
    """Carries connections to one service when its `RoundTrips` happen."""

    def __init__(self, connect: Connect, trips: RoundTrips) -> None:
        self._connect = connect
        self._trips = trips
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, sock: socket.socket) -> None:
        """Carry what connects to a bound socket until `close`."""
        self._port: int = sock.getsockname()[1]
        self._server = await asyncio.start_server(self._accept, sock=sock)

    async def close(self) -> None:
        """Stop listening and cut all connections."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.get_running_loop().create_task(self._carry(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.closing(writer):
            far_reader, far_writer = await self._connect()
            with contextlib.closing(far_writer):
                connection = _Connection(self._port, _Way(far_writer), _Way(writer))
                self._trips.add(connection)
                try:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(self._read(reader, connection.send))
                        group.create_task(self._read(far_reader, connection.answer))
                except* OSError:
                    pass  # a peer is gone, and so is the connection

    async def _read(
        self, reader: asyncio.StreamReader, take: Callable[[bytes], None]
    ) -> None:
        while data := await reader.read(_READ_BYTES):
            take(data)
            self._trips.notice()
        take(b"")
