"""A relay that makes a loopback connection as slow as a distant one.

For benchmarks, where netem is not to be had. It models, and delays, exactly this:

- connecting: the kernel accepts at once, so the client's first bytes are held for a
  whole round trip more, as the handshake of TCP would have;
- each direction: bytes arrive half a round trip after they were sent, in order;
- slow start: at most ten segments are on the way until the first are acknowledged,
  a round trip later; then the window grows by what was acknowledged.

So every round trip of TLS and of HTTP costs what it costs on a wire. Loss, bandwidth
and the packets of a closing connection are not modelled.
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
    """One direction of a connection, and what is on the way in it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    not_before: float
    pieces: asyncio.Queue[tuple[float, bytes]] = field(default_factory=asyncio.Queue)

    def put(self, due: float, piece: bytes) -> None:
        """Let a piece arrive at a time."""
        self.pieces.put_nowait((due, piece))


class DelayRelay:
    """Listens on a socket and relays every connection to a service, delayed.

    Args:
        connect: opens a connection to the service.
        round_trip_seconds: how long a round trip takes.
    """

    def __init__(self, connect: Connect, round_trip_seconds: float) -> None:
        self._connect = connect
        self._round_trip = round_trip_seconds
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, sock: socket.socket) -> None:
        """Relay what connects to a bound socket until `close`."""
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
        """Carry both directions until both have ended or one breaks."""
        try:
            async with asyncio.TaskGroup() as group:
                for way in (there, back):
                    group.create_task(self._send(way))
                    group.create_task(_deliver(way))
        except* OSError:
            pass  # a peer is gone, and so is the connection

    async def _send(self, way: _Way) -> None:
        """Put what arrives on its way, within the window."""
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
    """Hand over what is due; an empty piece is the end of the stream."""
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
