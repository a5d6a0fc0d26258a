"""Count the sequential round trips to the emulator.

A relay in front of each service delays the data of clients. A test waits until clients
have sent all data that they can send before a response. Then the test starts one round
trip on all connections at once. So the number of trips equals the longest chain of
requests that depend on each other, independent of the machine's speed. Like TCP:

- The first bytes of a connection wait for one more trip, the handshake of TCP.
- A trip carries at most one congestion window: ten segments at first (RFC 6928), and
  then more by the acknowledged bytes.

The response of a server belongs to the trip of its request. If a trip begins while a
client still sends a request, the rest of the request belongs to the same trip.
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
# A client's last message of the TLS 1.3 handshake (RFC 8446 §4.4.4, and the record of
# §D.4). The client sends it with the first request.
_FINISHED_BYTES = 80


class _Direction:
    """One direction of a connection: delayed bytes, and the window of this trip."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._delayed = bytearray()
        self._window = _WINDOW_BYTES
        self._carried = 0  # in this trip
        self._has_ended = False

    @property
    def has_request(self) -> bool:
        """Return whether more bytes are delayed than the end of a handshake."""
        return len(self._delayed) > _FINISHED_BYTES

    def put(self, data: bytes) -> None:
        """Delay received bytes; no bytes mean the end."""
        self._delayed += data
        self._has_ended = not data
        self._end()

    def begin_trip(self) -> None:
        """Acknowledge the bytes of the last trip."""
        self._window += self._carried
        self._carried = 0

    def carry(self) -> None:
        """Send as many delayed bytes as the window of this trip allows."""
        piece = self._delayed[: self._window - self._carried]
        del self._delayed[: len(piece)]
        self._carried += len(piece)
        if piece:
            self._writer.write(piece)
        self._end()

    def _end(self) -> None:
        if self._has_ended and not self._delayed and self._writer.can_write_eof():
            self._writer.write_eof()


class _Connection:
    """A client's connection to a service, which its port identifies."""

    def __init__(self, port: int, there: _Direction, back: _Direction) -> None:
        self.port = port
        self.is_established = False
        self.there = there
        self.back = back
        self.is_sending = False  # in a trip without a response so far

    @property
    def is_waiting(self) -> bool:
        """Return whether the client needs another trip."""
        return not self.is_established or self.there.has_request

    def travel(self) -> None:
        """Make one round trip."""
        self.there.begin_trip()
        self.back.begin_trip()
        self.back.carry()
        self.is_sending = self.is_established and self.there.has_request
        if self.is_established:
            self.there.carry()
        self.is_established = True

    def send(self, data: bytes) -> None:
        """Take bytes of the client."""
        self.there.put(data)
        if self.is_sending:
            self.there.carry()

    def respond(self, data: bytes) -> None:
        """Take bytes of the server."""
        self.is_sending = False
        self.back.put(data)
        self.back.carry()


class RoundTrips:
    """All connections to an emulator; used in the emulator's event loop."""

    def __init__(self) -> None:
        self.count = 0
        self.names: dict[int, str] = {}  # names of the services by port
        self._connections: list[_Connection] = []
        self._changed = asyncio.Event()

    def relay(self, connect: Connect) -> LockStepRelay:
        """Make the relay in front of a service."""
        return LockStepRelay(connect, self)

    async def travel(self, waiting: Mapping[str, int]) -> None:
        """Make one round trip on all connections.

        Args:
            waiting: how many connections to each service must wait for the trip before
                it begins: new connections, and connections with a request.
        """
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while not self._waiting() >= Counter(waiting):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            found = f"trip {self.count + 1} carries {dict(self._waiting())}"
            raise AssertionError(f"{found}, expected {waiting}") from None
        self.count += 1
        for connection in self._connections:
            connection.travel()

    def _waiting(self) -> Counter[str]:
        waiting = (c.port for c in self._connections if c.is_waiting)
        return Counter(self.names.get(port, str(port)) for port in waiting)

    def add(self, connection: _Connection) -> None:
        """Add a new connection."""
        self._connections.append(connection)
        self.notice()

    def notice(self) -> None:
        """Check again which connections wait."""
        self._changed.set()


class LockStepRelay:
    """Relays the connections to one service in the trips of a `RoundTrips`."""

    def __init__(self, connect: Connect, trips: RoundTrips) -> None:
        self._connect = connect
        self._trips = trips
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, sock: socket.socket) -> None:
        """Relay the connections of a bound socket until `close`."""
        self._port: int = sock.getsockname()[1]
        self._server = await asyncio.start_server(self._accept, sock=sock)

    async def close(self) -> None:
        """Stop listening, and close all connections."""
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
                connection = _Connection(
                    self._port, _Direction(far_writer), _Direction(writer)
                )
                self._trips.add(connection)
                try:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(self._read(reader, connection.send))
                        group.create_task(self._read(far_reader, connection.respond))
                except* OSError:
                    pass  # a peer has closed the connection

    async def _read(
        self, reader: asyncio.StreamReader, take: Callable[[bytes], None]
    ) -> None:
        while data := await reader.read(_READ_BYTES):
            take(data)
            self._trips.notice()
        take(b"")
