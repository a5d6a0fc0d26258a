"""One listening HTTP socket: its connections, its tick of one second, its close."""

from __future__ import annotations

import asyncio
import socket
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from skragent.observe import Event, log
from skragent.serving.acceptor import (
    Acceptor,
    GuardedSocket,
    close_in_thread,
    may_bring_descriptors,
    refuse_descriptors,
)
from skragent.serving.admission import Admission, Caller, Limits
from skragent.serving.http.connection import Connection
from skragent.serving.http.interfaces import HttpError
from skragent.serving.http.long_poll import LongPoll
from skragent.serving.http.response import problem_response
from skragent.serving.peers import UNIDENTIFIED, identify

if TYPE_CHECKING:
    from collections.abc import Callable

    from skragent.observe import Counters
    from skragent.serving.http.interfaces import EventLoop, Socket
    from skragent.serving.http.request import Request
    from skragent.serving.http.response import Response
    from skragent.serving.peers import Peer

    Handler = Callable[[Request, Peer], Response | LongPoll]

_TICK_SECONDS: Final = 1.0
# One read(2): more than the head of a request, for clients that pipeline.
_READ_BYTES: Final = 16 * 1024


class Listener:
    """Accepts connections, and passes their requests to a handler.

    Args:
        sock: bound; may be listening already.
        handle: returns the response to a request.
        counters: the counters of the agent.
        name: the `socket` label of the counters.
        limits: the limits of the socket and of each connection.
        on_tick: called each second while connections are open.
        accepts_body: returns whether the handler wants the body of a request.
    """

    loop: EventLoop  # set by `start`

    def __init__(
        self,
        sock: socket.socket,
        handle: Handler,
        *,
        counters: Counters,
        name: str,
        limits: Limits | None = None,
        on_tick: Callable[[], None] | None = None,
        accepts_body: Callable[[Request, Peer], bool] | None = None,
    ) -> None:
        self._handle = handle
        self._counters = counters
        self._name = name
        self.limits = limits or Limits()
        self.wants_unit = False
        self.named_gids: frozenset[int] = frozenset()
        self.owner_of: Callable[[Peer], int] = _uid_of  # the owner of a caller's quota
        self.read_buffer = bytearray(_READ_BYTES)
        self.tick = 0
        self._on_tick = on_tick
        self._accepts_body = accepts_body
        self._acceptor = Acceptor(sock, self._accept)
        self._identifies = sock.family == socket.AF_UNIX
        if self._identifies:
            refuse_descriptors(sock)
        self._ticking: asyncio.TimerHandle | None = None
        self.admission = Admission(
            self.limits, counters, name, identifies=self._identifies
        )

    async def start(self) -> None:
        """Begin to accept."""
        self.loop = self.admission.loop = asyncio.get_running_loop()
        self._acceptor.start(self.loop)

    async def close(self, seconds: float) -> None:
        """Stop accepting; give peers some seconds to read responses; close."""
        self._acceptor.close()
        for connection in self.admission:
            connection.close()
        try:
            async with asyncio.timeout(seconds):
                await self.admission.is_empty.wait()
        except TimeoutError:
            for connection in self.admission:
                connection.abort()
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None

    def change_limits(self, limits: Limits) -> None:
        """Use other limits from now on; open connections stay open."""
        self.limits = limits
        self.admission.change_limits(limits)

    def abort_sending(self) -> None:
        """Close connections whose peers have not read a response completely."""
        for connection in self.admission:
            if connection.is_sending:
                connection.abort()

    def admit(self, sock: Socket, peer: Peer) -> Connection[Caller]:
        """Serve a connection, or reject it if there are too many."""
        if self._ticking is None:
            self._begin_tick()
            self._schedule_tick()
        caller = Caller(peer, self.admission.quotas.of(self.owner_of(peer)))
        error = self.admission.check_connection(caller)
        connection = Connection(self, sock, caller)
        self.admission.add(connection)
        if error is None:
            connection.begin()
        else:
            connection.reject(error)
        return connection

    def respond(
        self, request: Request, caller: Caller, size: int
    ) -> Response | LongPoll:
        """Return the response to a request of `size` bytes, or a long poll.

        Raises:
            HttpError: the handler failed unexpectedly.
        """
        error = self.admission.check_request(caller, size)
        if error is not None:
            return self.error_response(error)
        try:
            response = self._handle(request, caller.peer)
        except Exception as failure:
            self.report_failure(failure)
            raise HttpError(
                "the agent failed to handle the request",
                code="internal",
                status=HTTPStatus.INTERNAL_SERVER_ERROR,
            ) from failure
        if isinstance(response, LongPoll):
            error = self.admission.check_long_poll(caller)
            if error is not None:
                return self.error_response(error)
        return response

    def accepts_body(self, request: Request, caller: Caller) -> bool:
        """Return whether the handler wants the body of a request."""
        return self._accepts_body is not None and self._accepts_body(
            request, caller.peer
        )

    def error_response(self, error: HttpError) -> Response:
        """Return the response to a request that did not reach the handler."""
        counter = self._counters.requests_cell(self._name, "none", error.code)
        return problem_response(error, counter=counter)

    def report_failure(self, error: Exception) -> None:
        """Report an unexpected error in the log."""
        log(Event.REQUEST_FAILED, "a request failed unexpectedly", error=error)

    def _accept(self, sock: socket.socket) -> None:
        connection: Socket = sock
        try:
            peer = self._identify(sock)
        except OSError:  # callers without an identity are not served
            sock.close()
            return
        if self._identifies and may_bring_descriptors(sock):
            connection = GuardedSocket(
                sock, lambda sock: self._close_slowly(self.owner_of(peer), sock)
            )
        self.admit(connection, peer)

    def _close_slowly(self, owner: int, sock: socket.socket) -> None:
        """Close a socket in a thread. It counts as a connection until then."""
        quota = self.admission.quotas.of(owner)
        self.admission.count_closing(quota, 1)

        def on_closed() -> None:
            self.loop.call_soon_threadsafe(
                lambda: self.admission.count_closing(quota, -1)
            )

        close_in_thread(sock, on_closed)

    def _identify(self, sock: socket.socket) -> Peer:
        if not self._identifies:
            return UNIDENTIFIED
        return identify(sock, wants_unit=self.wants_unit, gids=self.named_gids)

    def _schedule_tick(self) -> None:
        self._ticking = self.loop.call_later(_TICK_SECONDS, self._on_timer)

    def _begin_tick(self) -> None:
        self.tick += 1
        self.admission.refill()
        if self._on_tick is not None:
            self._on_tick()
        self.admission.begin_tick()

    def _on_timer(self) -> None:
        """End overdue connections. Without connections, the timer stops."""
        self._ticking = None
        self._begin_tick()
        if self.admission or len(self.admission.quotas):
            self._schedule_tick()
        for connection in self.admission:
            if connection.is_overdue():
                connection.expire()
            elif connection.has_lost_peer():
                connection.abort()


def _uid_of(peer: Peer) -> int:
    return peer.uid
