"""Connections in memory: tests feed bytes, and read the bytes that are sent."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from support.serving import MYSELF, NOW, everybody_in, no_attempt

from skragent.observe import Counters
from skragent.serving import Limits
from skragent.serving.api import KeyApi
from skragent.serving.listener import Listener

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from skragent.keyring import Keyring
    from skragent.serving import Access
    from skragent.serving.admission import Caller
    from skragent.serving.http.connection import Connection
    from skragent.serving.http.long_poll import LongPoll
    from skragent.serving.http.request import Request
    from skragent.serving.http.response import Response
    from skragent.serving.peers import Peer


class FullSocket:
    """A socket that accepts a number of bytes, and the rest after `make_room`."""

    def __init__(self, loop: HandLoop, room: float = float("inf")) -> None:
        self.room = room
        self.sent = b""
        self.closed = False
        self._loop = loop
        self._arrived = b""
        self._is_finished = False
        self._mine, self._theirs = socket.socketpair()
        self._fd = self._mine.fileno()

    @property
    def reads(self) -> bool:
        """Return whether the connection waits for bytes."""
        return self._fd in self._loop.readers

    def fileno(self) -> int:
        assert not self.closed
        return self._fd

    def recv_into(self, buffer: bytearray, nbytes: int = 0, flags: int = 0) -> int:  # noqa: ARG002
        assert not self.closed
        if not self._arrived:
            if self._is_finished:
                return 0
            raise BlockingIOError
        part = self._arrived[: len(buffer)]
        self._arrived = self._arrived[len(part) :]
        buffer[: len(part)] = part
        return len(part)

    def settimeout(self, value: float, /) -> None:
        assert value == 0

    def sendmsg(
        self,
        buffers: Sequence[bytes | memoryview],
        ancdata: Sequence[object] = (),  # noqa: ARG002
        flags: int = 0,  # noqa: ARG002
    ) -> int:
        assert not self.closed, "written after close"
        data = b"".join(buffers)
        count = int(min(len(data), self.room))
        if not count:
            raise BlockingIOError
        self.sent += data[:count]
        self.room -= count
        return count

    def close(self) -> None:
        assert self._fd not in self._loop.readers
        assert self._fd not in self._loop.writers
        self.closed = True

    def arrive(self, data: bytes) -> None:
        """Let bytes arrive, and the loop report them while the connection reads."""
        self._arrived += data
        while self._arrived and self.reads:
            self._loop.readers[self._fd]()
            self._loop.settle()
        self._loop.settle()

    def finish(self) -> None:
        """Shut down the sending side of the peer; it still reads."""
        self._is_finished = True
        self._theirs.shutdown(socket.SHUT_WR)
        if self.reads:
            self._loop.readers[self._fd]()
        self._loop.settle()

    def make_room(self) -> None:
        """Let the peer read everything."""
        self.room = float("inf")
        while self._fd in self._loop.writers:
            self._loop.writers[self._fd]()
        self.arrive(b"")

    def release(self) -> None:
        self._mine.close()
        self._theirs.close()


class HandTimer:
    """A timer that a test fires."""

    def __init__(self, loop: HandLoop, callback: Callable[[], object]) -> None:
        self._loop = loop
        self._callback = callback
        loop.timers.append(self)

    def fire(self) -> None:
        self.cancel()
        self._callback()

    def cancel(self) -> None:
        if self in self._loop.timers:
            self._loop.timers.remove(self)


class HandLoop:
    """An event loop that a test runs round by round."""

    def __init__(self) -> None:
        self.readers: dict[int, Callable[[], object]] = {}
        self.writers: dict[int, Callable[[], object]] = {}
        self.soon: list[Callable[[], object]] = []
        self.timers: list[HandTimer] = []

    def call_soon(self, callback: Callable[[], object]) -> None:
        self.soon.append(callback)

    def call_soon_threadsafe(self, callback: Callable[[], object]) -> None:
        self.soon.append(callback)

    def turn(self) -> None:
        """Run one round: call the scheduled callbacks."""
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()

    def settle(self) -> None:
        """Run rounds until no callback is scheduled."""
        while self.soon:
            self.turn()

    def add_reader(self, fd: int, callback: Callable[[], object]) -> None:
        self.readers[fd] = callback

    def remove_reader(self, fd: int) -> bool:
        return self.readers.pop(fd, None) is not None

    def add_writer(self, fd: int, callback: Callable[[], object]) -> None:
        self.writers[fd] = callback

    def remove_writer(self, fd: int) -> bool:
        return self.writers.pop(fd, None) is not None

    def call_later(self, delay: float, callback: Callable[[], object]) -> HandTimer:  # noqa: ARG002
        return HandTimer(self, callback)


class InMemoryServer:
    """A listener without a socket; tests make its connections. Needs a loop."""

    def __init__(
        self,
        ring: Keyring,
        access: Access | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.counters = Counters()
        self.now = NOW
        self.loop = HandLoop()
        limits = limits or Limits()
        self.api = KeyApi(
            ring,
            access or everybody_in(ring),
            self.counters,
            now=lambda: self.now,
            due_at=no_attempt,
        )
        with socket.socket(socket.AF_UNIX) as unbound:
            self.listener = Listener(
                unbound,
                self.api.handle,
                counters=self.counters,
                name="api",
                limits=limits,
                on_tick=self.api.tick,
            )
        self.listener.loop = self.listener.admission.loop = self.loop
        self._sockets: list[FullSocket] = []

    def connect(
        self, room: float = float("inf"), peer: Peer = MYSELF
    ) -> tuple[Connection[Caller], FullSocket]:
        sock = FullSocket(self.loop, room)
        self._sockets.append(sock)
        connection = self.listener.admit(sock, peer)
        assert connection is not None
        return connection, sock

    def visit(
        self, request: bytes, peer: Peer = MYSELF, *, room: float = float("inf")
    ) -> FullSocket:
        """Make a connection that has a request at once."""
        sock = FullSocket(self.loop, room)
        self._sockets.append(sock)
        sock.arrive(request)
        self.listener.admit(sock, peer)
        self.loop.settle()
        return sock

    def pass_seconds(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1
            self.loop.timers.clear()  # the tick is the only timer, and it is due
            self.listener._on_timer()
            self.loop.settle()

    async def close(self) -> None:
        await self.listener.close(0)
        for sock in self._sockets:
            sock.release()


def feed(sock: FullSocket, data: bytes) -> None:
    """Let bytes arrive."""
    sock.arrive(data)


def count_handled(server: InMemoryServer) -> list[str]:
    """Return the paths of the requests that reach the handler from now on."""
    handled: list[str] = []
    handle = server.listener._handle

    def handle_and_note(request: Request, peer: Peer) -> Response | LongPoll:
        handled.append(request.path)
        return handle(request, peer)

    server.listener._handle = handle_and_note
    return handled


def count_cached(server: InMemoryServer, peer: Peer = MYSELF) -> int:
    """Return the number of responses in the cache of a user."""
    return len(server.listener.admission.quotas.of(peer.uid).responses)


def with_server(
    ring: Keyring,
    test: Callable[[InMemoryServer], None],
    *,
    access: Access | None = None,
    limits: Limits | None = None,
) -> None:
    """Run a test with a server, inside of an event loop."""

    async def run() -> None:
        server = InMemoryServer(ring, access, limits)
        try:
            test(server)
        finally:
            await server.close()

    asyncio.run(run())
