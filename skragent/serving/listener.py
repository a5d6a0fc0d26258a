"""One listening socket: its connections, their bounds, and its orderly end."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from typing import TYPE_CHECKING, Final

from skragent.errors import ServeError
from skragent.observe import Event, log, names
from skragent.serving.answer import problem_answer
from skragent.serving.limits import READ_BYTES, Limits
from skragent.serving.peers import identify
from skragent.serving.wire import Connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from skragent.observe import Counters
    from skragent.serving.answer import Answer
    from skragent.serving.peers import Peer
    from skragent.serving.request import Request

    Handler = Callable[[Request, Peer], Answer]

_TICK_SECONDS: Final = 1.0
_BACKLOG: Final = 1024
SERVICE_UNAVAILABLE: Final = 503


class Listener:
    """Accepts connections and hands their requests to a handler.

    Args:
        sock: bound; listening or not.
        handle: answers one request; must not raise for what a caller does.
        counters: where everything is counted.
        name: the `socket` label of the counts.
    """

    def __init__(
        self,
        sock: socket.socket,
        handle: Handler,
        *,
        counters: Counters,
        name: str,
        limits: Limits | None = None,
    ) -> None:
        self.handle = handle
        self.counters = counters
        self.name = name
        self.limits = limits or Limits()
        self.read_buffer = bytearray(READ_BYTES)
        self.tick = 0
        self._refused_at = -1
        self._socket = sock
        self._identifies = sock.family == socket.AF_UNIX
        self._connections: set[Connection] = set()
        self._per_uid: Counter[int] = Counter()
        self._server: asyncio.Server | None = None
        self._sweeping: asyncio.TimerHandle | None = None
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        counters.connections[name] = counters.in_flight[name] = 0

    async def start(self) -> None:
        """Begin to accept."""
        loop = asyncio.get_running_loop()
        serve = loop.create_unix_server if self._identifies else loop.create_server
        self._server = await serve(
            lambda: Connection(self), sock=self._socket, backlog=_BACKLOG
        )

    async def close(self, seconds: float) -> None:
        """Stop accepting; let answers under way be taken for some seconds, then cut."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.end()
        try:
            async with asyncio.timeout(seconds):
                await self._is_empty.wait()
        except TimeoutError:
            for connection in list(self._connections):
                connection.cut()
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None

    def cut_takers(self) -> None:
        """Cut whoever has not taken an answer wholly: its bytes are about to go."""
        for connection in list(self._connections):
            if connection.is_taking:
                connection.cut()

    def admit(self, connection: Connection, fd: int) -> Answer | None:
        """Take a connection in; or return what to say to one too many.

        Raises:
            OSError: where the kernel does not tell who it is.
        """
        if self._identifies:
            connection.peer = identify(fd)
        self._is_empty.clear()
        self._connections.add(connection)
        self._per_uid[connection.peer.uid] += 1
        self.counters.connections[self.name] += 1
        if self._sweeping is None:
            self._sweep_later()
        if (
            len(self._connections) <= self.limits.connections
            and self._per_uid[connection.peer.uid] <= self.limits.connections_per_uid
        ):
            return None
        return self._refuse(connection.peer)

    def forget(self, connection: Connection) -> None:
        """Note that a connection is gone."""
        if connection not in self._connections:
            return
        self._connections.remove(connection)
        uid = connection.peer.uid
        self._per_uid[uid] -= 1
        if not self._per_uid[uid]:
            del self._per_uid[uid]
        self.counters.connections[self.name] -= 1
        if not self._connections:
            self._is_empty.set()

    def problem(self, error: ServeError) -> Answer:
        """Answer what never became a request."""
        cell = self.counters.requests_cell(self.name, "none", error.code)
        return problem_answer(error, cell=cell)

    def _refuse(self, peer: Peer) -> Answer:
        self.counters.denied[names.DENIED_CONNECTIONS] += 1
        if self._refused_at != self.tick:  # one line a second is enough
            self._refused_at = self.tick
            log(
                Event.CONNECTIONS_REFUSED,
                "too many connections",
                uid=peer.uid,
                pid=peer.pid,
            )
        error = ServeError("too many connections", code="serve.connections")
        error.status = SERVICE_UNAVAILABLE
        return self.problem(error)

    def _sweep_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweeping = loop.call_later(_TICK_SECONDS, self._sweep)

    def _sweep(self) -> None:
        """End what is overdue. An agent that nobody talks to is not woken for this."""
        self.tick += 1
        for connection in list(self._connections):
            if connection.is_overdue():
                connection.give_up()
        self._sweeping = None
        if self._connections:
            self._sweep_later()
