"""A relay that gives a loopback connection the delay of a distant connection.

Benchmarks use the relay on machines without netem. It delays:

- connecting: the kernel accepts at once, so the relay holds the client's first bytes
  for one more round trip, the time of a TCP handshake;
- each direction: bytes arrive in order, half a round trip after they were sent;
- slow start: at most ten segments are in flight until the first acknowledgement, one
  round trip later; then the window grows by the acknowledged bytes.

So each round trip of TLS and HTTP takes as long as on a network. The relay does not
model loss, bandwidth or the packets that close a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]

_SEGMENT_BYTES = 1448  # Ethernet's 1500 less IP, TCP and its timestamps
_INITIAL_WINDOW_BYTES = 10 * _SEGMENT_BYTES  # RFC 6928
_READ_BYTES = 64 * 1024


@dataclass(frozen=True)
class _Way:
    """One direction of a connection, and the bytes in flight."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    not_before: float
    pieces: asyncio.Queue[tuple[float, bytes]] = field(default_factory=asyncio.Queue)

    def put(self, due: float, piece: bytes) -> None:
        """Deliver a piece at a time."""
        self.pieces.put_nowait((due, piece))


class DelayRelay:
    """Listens on a socket and relays every connection to a service with a delay.

    Args:
        connect: opens a connection to the service.
        round_trip_seconds: the duration of a round trip.
    """

    def __init__(self, connect: Connect, round_trip_seconds: float) -> None:
        self._connect = connect
        self._round_trip = round_trip_seconds
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, sock: socket.socket) -> None:
        """Relay connections to a bound socket until `close` is called."""
        self._server = await asyncio.start_server(self._accept, sock=sock)

    async def close(self) -> None:
        """Stop listening and close all connections."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.get_running_loop().create_task(self._relay(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _relay(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        established_at = asyncio.get_running_loop().time() + self._round_trip
        with contextlib.closing(writer):
            try:
                far_reader, far_writer = await self._connect()
            except OSError:
                return
            with contextlib.closing(far_writer):
                await self._both_ways(
                    _Way(reader, far_writer, established_at),
                    _Way(far_reader, writer, 0.0),
                )

    async def _both_ways(self, there: _Way, back: _Way) -> None:
        """Relay both directions until both end or one fails."""
        try:
            async with asyncio.TaskGroup() as group:
                for way in (there, back):
                    group.create_task(self._send(way))
                    group.create_task(_deliver(way))
        except* OSError:
            pass  # one peer closed its connection, so the relay closes both

    async def _send(self, way: _Way) -> None:
        """Send received bytes within the window."""
        loop = asyncio.get_running_loop()
        acknowledgements: deque[tuple[float, int]] = deque()
        window, in_flight = _INITIAL_WINDOW_BYTES, 0
        while data := await way.reader.read(_READ_BYTES):
            offset = 0
            while offset < len(data):
                while acknowledgements and (
                    acknowledgements[0][0] <= loop.time() or in_flight >= window
                ):
                    due, size = acknowledgements.popleft()
                    await _sleep_until(due)
                    in_flight -= size
                    window += size
                piece = data[offset : offset + window - in_flight]
                offset += len(piece)
                in_flight += len(piece)
                sent_at = max(loop.time(), way.not_before)
                acknowledgements.append((sent_at + self._round_trip, len(piece)))
                way.put(sent_at + self._round_trip / 2, piece)
        sent_at = max(loop.time(), way.not_before)
        way.put(sent_at + self._round_trip / 2, b"")


async def _deliver(way: _Way) -> None:
    """Deliver pieces when they are due; an empty piece ends the stream."""
    while True:
        due, piece = await way.pieces.get()
        await _sleep_until(due)
        if not piece:
            if way.writer.can_write_eof():
                way.writer.write_eof()
            return
        way.writer.write(piece)
        await way.writer.drain()


async def _sleep_until(due: float) -> None:
    delay = due - asyncio.get_running_loop().time()
    if delay > 0:
        await asyncio.sleep(delay)
