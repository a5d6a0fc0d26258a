"""One listening socket: its connections, their bounds, and its orderly end."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Final

from skragent.errors import RequestError, ServeError
from skragent.observe import Event, log, names
from skragent.serving.acceptor import Acceptor
from skragent.serving.connection_pool import ConnectionPool
from skragent.serving.fair_queue import FairQueue
from skragent.serving.guarded import (
    GuardedSocket,
    may_bring_descriptors,
    refuse_descriptors,
)
from skragent.serving.http.connection import Connection
from skragent.serving.http.response import problem_response
from skragent.serving.limits import READ_BYTES, Limits
from skragent.serving.peers import NOBODY, identify

if TYPE_CHECKING:
    from collections.abc import Callable

    from skragent.observe import Counters
    from skragent.serving.http.interfaces import Loop, Socket
    from skragent.serving.http.long_poll import LongPoll
    from skragent.serving.http.request import Request
    from skragent.serving.http.response import Response
    from skragent.serving.peers import Peer
    from skragent.serving.quotas import Quota

    Handler = Callable[[Request, Peer], Response | LongPoll]

_TICK_SECONDS: Final = 1.0
# Different requests of different callers within a second that are answered at once.
_REMEMBERED: Final = 256
_NOTHING_YET: Final = -1

TOO_MANY_REQUESTS: Final = 429
SERVICE_UNAVAILABLE: Final = 503


class Listener:
    """Accepts connections and hands their requests to a handler.

    Args:
        sock: bound; listening or not.
        handle: answers one request; must not raise for what a caller does.
        counters: where everything is counted.
        name: the `socket` label of the counts.
        limits: the bounds.
        on_tick: called each second as long as somebody is connected.
        takes_body: returns whether the body of a request is wanted, by its head.
    """

    loop: Loop  # from `start` on

    def __init__(
        self,
        sock: socket.socket,
        handle: Handler,
        *,
        counters: Counters,
        name: str,
        limits: Limits | None = None,
        on_tick: Callable[[], None] | None = None,
        takes_body: Callable[[Request, Peer], bool] | None = None,
    ) -> None:
        self._handle = handle
        self.counters = counters
        self.name = name
        self.limits = limits or Limits()
        self.wants_unit = False
        self.named_gids: frozenset[int] = frozenset()
        self.owner_of: Callable[[Peer], int] = _uid_of  # whose account a caller uses
        self.fair_queue = FairQueue()
        self.read_buffer = bytearray(READ_BYTES)
        self.tick = 0
        self._remembered: dict[tuple[tuple[object, ...], bytes], Response] = {}
        self._refused_at = -1
        self._on_tick = on_tick
        self.takes_body = takes_body or _takes_none
        self._acceptor = Acceptor(sock, self._accept)
        self._identifies = sock.family == socket.AF_UNIX
        if self._identifies:
            refuse_descriptors(sock)
        self._sweeping: asyncio.TimerHandle | None = None
        self.pool: ConnectionPool[Connection] = ConnectionPool(
            self.limits, counters, name, has_names=self._identifies
        )

    async def start(self) -> None:
        """Begin to accept."""
        self.loop = self.fair_queue.loop = asyncio.get_running_loop()
        self._acceptor.start(self.loop)

    async def close(self, seconds: float) -> None:
        """Stop accepting; let answers under way be taken for some seconds, then cut."""
        self._acceptor.close()
        for connection in self.pool:
            connection.end()
        try:
            async with asyncio.timeout(seconds):
                await self.pool.is_empty.wait()
        except TimeoutError:
            for connection in self.pool:
                connection.cut()
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None

    def change_limits(self, limits: Limits) -> None:
        """Have other bounds from now on; nobody is cut for them."""
        self.limits = limits
        self.pool.change_limits(limits)

    def cut_takers(self) -> None:
        """Cut whoever has not taken an answer wholly: its bytes are about to go."""
        for connection in self.pool:
            if connection.is_taking:
                connection.cut()

    def admit(self, sock: Socket, peer: Peer) -> Connection | None:
        """Take a connection in, and answer what it brought; refuse one too many.

        Gives none where that was all.
        """
        if self._sweeping is None:
            self._tick()
            self._sweep_later()
        quota = self.pool.quotas.of(self.owner_of(peer))
        has_room = self.pool.has_room(quota)
        try:
            count = sock.recv_into(self.read_buffer, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            count = _NOTHING_YET
        except OSError:
            sock.close()
            return None
        if has_room and count > 0 and self._answer_at_once(sock, peer, quota, count):
            return None
        return self._take_in(sock, peer, quota, count, has_room=has_room)

    def remember(self, peer: Peer, request: bytes, answer: Response) -> None:
        """Answer the same bytes of the same identity in the same way, for this tick.

        As long as the answer is not retired, that is, which a change of the key and of
        the rules does. Only for answers that are the last on their connection.
        """
        if len(self._remembered) < _REMEMBERED:
            self._remembered[peer.identity, request] = answer

    def _answer_at_once(
        self, sock: Socket, peer: Peer, quota: Quota, count: int
    ) -> bool:
        """Answer a request that was answered before, and be done with it."""
        request = bytes(self.read_buffer[:count])
        answer = self._remembered.get((peer.identity, request))
        if answer is None or self.pool.is_busy:
            return False
        if quota.left <= 0:  # turns are kept all the same: so many are accepted
            quota.begin_turn()
        if quota.left <= 0:
            return False
        parts = answer.last_parts
        if not parts:
            return False
        quota.left -= 1
        answer.cell.value += 1
        try:
            sent = sock.sendmsg(parts, (), socket.MSG_DONTWAIT)
        except BlockingIOError:
            sent = 0
        except OSError:  # it did not wait for its answer
            sent = answer.last_size
        if sent < answer.last_size:
            connection = self._make(sock, peer, quota)
            connection.send_rest(parts, sent)
        else:
            sock.close()
        return True

    def _take_in(
        self, sock: Socket, peer: Peer, quota: Quota, count: int, *, has_room: bool
    ) -> Connection:
        connection = self._make(sock, peer, quota)
        if has_room:
            connection.begin(count)
        else:
            connection.refuse(self._too_many(peer))
        return connection

    def _make(self, sock: Socket, peer: Peer, quota: Quota) -> Connection:
        sock.settimeout(0)
        connection = Connection(self, sock, peer, quota)
        self.pool.add(connection)
        return connection

    def answer(
        self, request: Request, peer: Peer, quota: Quota, size: int
    ) -> Response | LongPoll:
        """Answer one request, if its sender and all together have not asked enough."""
        if quota.left <= 0:
            self.counters.denied[names.DENIED_RATE] += 1
            return self.problem(
                RequestError(
                    "too many requests within a second",
                    code="serve.rate",
                    status=TOO_MANY_REQUESTS,
                )
            )
        quota.take(size)
        if not self.pool.may_fly(quota):
            self.counters.denied[names.DENIED_BUSY] += 1
            return self.problem(busy("too many requests are in flight"))
        return self._handle(request, peer)

    def refuse_to_park(self) -> Response:
        """Answer a request that may not wait."""
        self.counters.denied[names.DENIED_BUSY] += 1
        return self.problem(busy("too many requests wait already"))

    def problem(self, error: ServeError) -> Response:
        """Answer what never came to the handler."""
        cell = self.counters.requests_cell(self.name, "none", error.code)
        return problem_response(error, cell=cell)

    def _accept(self, sock: socket.socket) -> None:
        guarded: Socket = sock
        try:
            peer = self._identify(sock)
        except OSError:  # the kernel does not tell: nobody is served unknown
            sock.close()
            return
        if self._identifies and may_bring_descriptors(sock):
            guarded = GuardedSocket(
                sock, lambda sock: self._close_slowly(self.owner_of(peer), sock)
            )
        self.admit(guarded, peer)

    def _close_slowly(self, owner: int, sock: socket.socket) -> None:
        quota = self.pool.quotas.of(owner)
        self.pool.close_slowly(quota, sock, self.loop)

    def _identify(self, sock: socket.socket) -> Peer:
        if not self._identifies:
            return NOBODY
        return identify(sock, wants_unit=self.wants_unit, gids=self.named_gids)

    def _too_many(self, peer: Peer) -> ServeError:
        self.counters.denied[names.DENIED_CONNECTIONS] += 1
        if self._refused_at != self.tick:  # one line a second is enough
            self._refused_at = self.tick
            log(
                Event.CONNECTIONS_REFUSED,
                f"a connection of uid {peer.uid} was refused: [serving] connections or"
                " connections_per_uid of the configuration are reached",
                code="serve.connections",
                uid=peer.uid,
                pid=peer.pid,
            )
        error = ServeError("too many connections", code="serve.connections")
        error.status = SERVICE_UNAVAILABLE
        return error

    def _sweep_later(self) -> None:
        self._sweeping = self.loop.call_later(_TICK_SECONDS, self._sweep)

    def _tick(self) -> None:
        self.tick += 1
        self._remembered.clear()
        self.pool.quotas.refill()
        if self._on_tick is not None:
            self._on_tick()
        self.fair_queue.tick()

    def _sweep(self) -> None:
        """End what is overdue. An agent that nobody talks to is not woken for this."""
        self._sweeping = None
        self._tick()
        if self.pool or len(self.pool.quotas):
            self._sweep_later()
        for connection in self.pool:
            if connection.is_overdue():
                connection.give_up()
            elif connection.has_nobody():
                connection.cut()


def _takes_none(request: Request, peer: Peer) -> bool:  # noqa: ARG001 - a predicate's
    return False


def _uid_of(peer: Peer) -> int:
    return peer.uid


def busy(message: str) -> ServeError:
    """Refuse what could be served later."""
    error = ServeError(message, code="serve.busy")
    error.status = SERVICE_UNAVAILABLE
    return error
