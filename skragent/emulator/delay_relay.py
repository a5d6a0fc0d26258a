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
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

_SEGMENT_BYTES = 1448  # Ethernet's 1500 less IP, TCP and its timestamps
_INITIAL_WINDOW_BYTES = 10 * _SEGMENT_BYTES  # RFC 6928
_READ_BYTES = 64 * 1024


class DelayRelay:
    """Listens on a socket and relays every connection to a local port, delayed."""

    def __init__(self, host: str, port: int, round_trip_seconds: float) -> None:
        self._target = (host, port)
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
        with contextlib.suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection(*self._target)
            with contextlib.closing(far_writer), contextlib.closing(writer):
                await asyncio.gather(
                    self._pump(reader, far_writer, established_at),
                    self._pump(far_reader, writer, 0.0),
                )

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        not_before: float,
    ) -> None:
        """Carry one direction, half a round trip late, within the window."""
        loop = asyncio.get_running_loop()
        on_the_way: deque[tuple[float, bytes]] = deque()
        acknowledgements: deque[tuple[float, int]] = deque()
        arrived = asyncio.Event()
        deliverer = asyncio.create_task(self._deliver(on_the_way, arrived, writer))
        window, in_flight = _INITIAL_WINDOW_BYTES, 0
        try:
            while data := await reader.read(_READ_BYTES):
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
                    sent_at = max(loop.time(), not_before)
                    on_the_way.append((sent_at + self._round_trip / 2, piece))
                    acknowledgements.append((sent_at + self._round_trip, len(piece)))
                    arrived.set()
            on_the_way.append((loop.time() + self._round_trip / 2, b""))
            arrived.set()
            await deliverer
        finally:
            deliverer.cancel()

    async def _deliver(
        self,
        on_the_way: deque[tuple[float, bytes]],
        arrived: asyncio.Event,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Hand over what is due; an empty piece is the end of the stream."""
        while True:
            await arrived.wait()
            arrived.clear()
            while on_the_way:
                due, piece = on_the_way.popleft()
                await _sleep_until(due)
                if not piece:
                    if writer.can_write_eof():
                        writer.write_eof()
                    return
                writer.write(piece)
                await writer.drain()


async def _sleep_until(due: float) -> None:
    delay = due - asyncio.get_running_loop().time()
    if delay > 0:
        await asyncio.sleep(delay)
