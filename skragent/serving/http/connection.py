"""The server's end of one HTTP connection: bytes in, responses out, in order.

Theory of operation. `reader` finds requests in the bytes that arrive. The server
returns a response or a long poll for each request. The connection serves the next
request when the socket has accepted every byte of the response before it. So a
connection has at most one response under way, and a limited number of pending bytes.

The state says what the connection waits for:

    | state        | the connection waits for                     | next states        |
    |--------------|----------------------------------------------|--------------------|
    | IDLE         | a request                                    | all others         |
    | QUEUED       | a new quota of its user                      | IDLE               |
    | LONG_POLLING | the change that a request asked for          | IDLE, SENDING      |
    | SENDING      | the peer, to read the rest of a response     | IDLE               |
    | CLOSING      | the same; then the connection closes         | CLOSED             |
    | CLOSED       | nothing                                      |                    |

QUEUED, LONG_POLLING and SENDING can also become CLOSING or CLOSED.

The connection reads in the states IDLE and LONG_POLLING only. In the other states the
bytes of further requests stay in the socket. So a peer that does not read responses
cannot send requests without limit. A long poll reads because it must notice that its
peer closes. It stops reading if the peer has shut down its sending side
(`_has_input_ended`), or has sent more requests than the connection keeps.

The connection keeps the rest of a response as a `memoryview` of the key's memory and
never copies key bytes. This memory lives until the peer has read the rest or the
connection ends.

A client that expects 100 (Continue) gets it if the server reads the body. Otherwise
the server responds without the body and closes the connection, because the client may
send the body all the same.

The connection uses a socket, and not a transport of asyncio. A client that makes a
connection for each request gets its response before asyncio would have a transport.

Time is the server's tick of one second: a request needs no timer and no clock.
"""

from __future__ import annotations

import enum
import select
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Generic

from skragent.serving.http.interfaces import CallerT, HttpError
from skragent.serving.http.long_poll import LongPoll
from skragent.serving.http.reader import RequestReader
from skragent.serving.http.response import skip_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skragent.serving.http.interfaces import Server, Socket
    from skragent.serving.http.request import Request
    from skragent.serving.http.response import Response

# Reads before the close of a connection that may have unread bytes. A Unix socket that
# is closed with unread bytes resets its peer, and the peer may lose the response.
_MAX_DRAINING_READS: Final = 4
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_Buffer = bytes | memoryview


class State(enum.Enum):
    """What a connection waits for."""

    IDLE = enum.auto()
    QUEUED = enum.auto()
    LONG_POLLING = enum.auto()
    SENDING = enum.auto()
    CLOSING = enum.auto()
    CLOSED = enum.auto()


TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    State.IDLE: frozenset(State) - {State.IDLE},
    State.QUEUED: frozenset({State.IDLE, State.CLOSING, State.CLOSED}),
    State.LONG_POLLING: frozenset(
        {State.IDLE, State.SENDING, State.CLOSING, State.CLOSED}
    ),
    State.SENDING: frozenset({State.IDLE, State.CLOSING, State.CLOSED}),
    State.CLOSING: frozenset({State.CLOSED}),
    State.CLOSED: frozenset(),
}
_IDLE: Final = State.IDLE
_NEVER: Final = -1


class Connection(Generic[CallerT]):
    """One connection.

    Args:
        server: the server that accepted it.
        sock: connected.
        caller: the process at the other end.
    """

    __slots__ = (
        "_buffer",
        "_has_input_ended",
        "_identity",
        "_is_head",
        "_is_reading",
        "_keeps_alive",
        "_long_poll",
        "_quota",
        "_reader",
        "_recv_into",
        "_sendmsg",
        "_server",
        "_socket",
        "_throttled_at",
        "_unsent",
        "caller",
        "since",
        "state",
    )

    def __init__(self, server: Server[CallerT], sock: Socket, caller: CallerT) -> None:
        sock.settimeout(0)
        self._server = server
        self._socket = sock
        self._recv_into = sock.recv_into
        self._sendmsg = sock.sendmsg
        self.caller = caller
        self._identity = caller.identity
        self._quota = caller.quota
        self._buffer = server.read_buffer
        self._reader = RequestReader(server.limits)
        self.state = _IDLE
        self.since = server.tick  # the begin of what the connection waits for
        self._unsent: list[_Buffer] = []  # of the response under way
        self._long_poll: LongPoll | None = None
        self._keeps_alive = True  # after the response to the current request
        self._is_head = False  # the response to the current request has no body
        self._is_reading = False  # the event loop reports bytes that arrive
        self._has_input_ended = False  # the peer has shut down its sending side
        self._throttled_at = _NEVER  # the tick of the last 429

    def begin(self) -> None:
        """Serve a request that came with the connection, and wait for more."""
        self._receive()
        self._update_reading()

    def on_readable(self) -> None:
        """Read once, unless the quota of this round is used up."""
        if self._quota.left <= 0 and self._server.admission.defers(self.caller):
            return  # the socket stays readable until the next round
        self._receive()

    def on_writable(self) -> None:
        """Send more of a response; serve the next request if that was all."""
        unsent, self._unsent = self._unsent, []
        self._server.loop.remove_writer(self._socket.fileno())
        self._server.admission.count_in_flight(self.caller, -1)
        is_last = self.state is State.CLOSING
        self._send(unsent, sum(map(len, unsent)), is_last=is_last)
        if self._unsent or self.state is State.CLOSED:
            return
        if is_last:
            self._close()
        else:
            self.since = self._server.tick
            self._become(_IDLE)
            self._advance()

    def resume(self) -> None:
        """Serve the pending requests with the new quota of the user."""
        if self.state is State.QUEUED:
            self._become(_IDLE)
            self._advance()

    def deliver(self, response: Response) -> None:
        """Send the response to the long poll."""
        self._cancel_long_poll()
        self.since = self._server.tick
        if self._is_head:
            response = response.without_body()
        if not self._keeps_alive:
            self._send_last(response)
            return
        response.counter.value += 1
        self._send(response.parts, response.size)
        if self.state is State.LONG_POLLING:
            self._become(_IDLE)
            self._advance()

    def fail(self, error: Exception) -> None:
        """Close at once because of an unexpected error."""
        self._server.report_failure(error)
        self.abort()

    def reject(self, error: HttpError) -> None:
        """Send an error response, and close."""
        response = self._server.error_response(error)
        self._send_last(response.without_body() if self._is_head else response)

    def close(self) -> None:
        """Serve no more requests, and close after the response under way."""
        if self.state is State.LONG_POLLING and self._long_poll is not None:
            self._keeps_alive = False
            self._long_poll.finish()
        elif self.state is State.SENDING:
            self._reader.clear()
            self._become(State.CLOSING)
        elif self.state in (_IDLE, State.QUEUED):
            self._close()

    def abort(self) -> None:
        """Close at once, even in the middle of a response."""
        if self.state is State.CLOSED:
            return
        if self._unsent:
            self._unsent = []
            self._server.admission.count_in_flight(self.caller, -1)
            self._server.loop.remove_writer(self._socket.fileno())
        self._cancel_long_poll()
        self._close()

    def evict(self) -> None:
        """Close at once in favour of another user; a long poll gets its response."""
        self.close()
        self.abort()

    def expire(self) -> None:
        """End an overdue wait, with a response if the peer may read it."""
        if self._long_poll is not None:
            self._long_poll.finish()
        elif self._reader and not self._unsent:
            self._reject_pending(
                HttpError(
                    "the request did not arrive in time",
                    code="serve.timeout",
                    status=HTTPStatus.REQUEST_TIMEOUT,
                )
            )
        else:
            self.abort()

    def give_way(self) -> None:
        """End a wait in favour of another user.

        A long poll with more requests behind it is the last request of its connection.
        Otherwise the next long poll would take the place again at once.
        """
        if self._reader:
            self._keeps_alive = False
        self.expire()

    @property
    def is_sending(self) -> bool:
        """Return whether the peer has not read a response completely."""
        return bool(self._unsent)

    @property
    def is_long_polling(self) -> bool:
        """Return whether a request waits for a change."""
        return self.state is State.LONG_POLLING

    @property
    def is_in_flight(self) -> bool:
        """Return whether a response or a long poll is under way."""
        return bool(self._unsent) or self.state is State.LONG_POLLING

    def is_overdue(self) -> bool:
        """Return whether the peer exceeds a time limit."""
        if self.state is State.CLOSED:
            return False
        if self._long_poll is not None:
            return self._server.tick > self._long_poll.last_tick
        limits = self._server.limits
        if self._unsent:
            allowed = limits.send_timeout_seconds
        elif self._reader:
            allowed = limits.head_timeout_seconds
        else:
            allowed = limits.idle_timeout_seconds
        return self._server.tick - self.since > allowed

    def has_lost_peer(self) -> bool:
        """Return whether the peer of a long poll that is not read has closed."""
        if self.state is not State.LONG_POLLING or self._is_reading:
            return False
        return _has_hung_up(self._socket.fileno())

    def _receive(self) -> None:
        """Read once. Serve the request from the cache, or parse it."""
        try:
            count = self._recv_into(self._buffer)
        except BlockingIOError:
            return
        except OSError:
            self.abort()
            return
        if self.state is _IDLE and not self._reader and self._quota.left > 0:
            request = bytes(self._buffer[:count])
            cached = self._quota.responses.get((self._identity, request))
            if cached is not None and not self._server.admission.is_busy:
                response, keep_alive = cached
                if response.parts:
                    self._quota.left -= 1
                    if keep_alive:
                        response.counter.value += 1
                        self.since = self._server.tick
                        self._send(response.parts, response.size)
                    else:
                        self._send_last(response)
                    return
        self._take(count)

    def _take(self, count: int) -> None:
        """Pass bytes from the buffer to the reader; 0 is the end of the input."""
        if count == 0:
            self._on_end_of_input()
            return
        if not self._reader:
            self.since = self._server.tick
        self._reader.add(self._buffer[:count])
        if self.state is _IDLE:
            self._advance()
            if self._reader.awaits_body:
                self._quota.charge_part(count)
        else:
            self._update_reading()

    def _on_end_of_input(self) -> None:
        """Close; but let a long poll wait if the peer still reads."""
        if self.state is not State.LONG_POLLING:
            self.close()
        elif _has_hung_up(self._socket.fileno()):
            self.abort()
        else:
            self._has_input_ended = True
            self._update_reading()

    def _advance(self) -> None:
        """Serve the complete requests, one at a time, as long as the state is IDLE."""
        try:
            while self.state is _IDLE and self._reader and not self._waits_for_quota():
                received = self._reader.next()
                if received is None:
                    break
                if received.is_expecting:
                    self._meet_expectation(received.request, received.size)
                else:
                    self._serve(received.request, received.raw, received.size)
        except HttpError as error:
            self._reject_pending(error)
        if self.state is _IDLE and self._has_input_ended:
            self.close()
        self._update_reading()

    def _waits_for_quota(self) -> bool:
        """Queue the connection if its user's quota is used up.

        A user whose quota for the whole second is used up gets one 429 on each
        connection. After that the connection waits for the next second.
        """
        if self._quota.left > 0:
            return False
        admission = self._server.admission
        if admission.defers(self.caller):
            admission.resume_next_round(self)
        elif self._throttled_at == self._server.tick:
            admission.resume_next_tick(self)
        else:
            return False
        self._become(State.QUEUED)
        return True

    def _meet_expectation(self, request: Request, size: int) -> None:
        """Send 100 (Continue), or respond without the body: RFC 9110 §10.1.1.

        The client needs no 100 if its body has already begun to arrive.
        """
        if self._quota.left > 0 and self._server.accepts_body(request, self.caller):
            if not self._reader.has_body_begun:
                self._send((_CONTINUE,), len(_CONTINUE))
        else:
            self._serve(request.as_last(), b"", size)

    def _serve(self, request: Request, raw: bytes, size: int) -> None:
        """Respond to one request. Its `raw` bytes are empty if it is not cacheable."""
        self.since = self._server.tick
        self._keeps_alive = request.keep_alive
        self._is_head = request.method == "HEAD"
        if self._quota.left <= 0:
            self._throttled_at = self._server.tick
        try:
            response = self._server.respond(request, self.caller, size)
        except HttpError as error:
            self.reject(error)
            return
        if isinstance(response, LongPoll):
            self._long_poll = response
            self._server.admission.count_long_polls(self.caller, 1)
            self._become(State.LONG_POLLING)
            response.start(self, self._server.tick)
            return
        if self._is_head:
            response = response.without_body()
        if response.is_cacheable and raw:
            self._quota.responses.put(
                self._identity, raw, response, keep_alive=request.keep_alive
            )
        if request.keep_alive:
            response.counter.value += 1
            self._send(response.parts, response.size)
        else:
            self._send_last(response)

    def _reject_pending(self, error: HttpError) -> None:
        """Reject a request that is not complete."""
        self._is_head = self._reader.is_head
        self.reject(error)

    def _send_last(self, response: Response) -> None:
        """Send a response, and close."""
        self.since = self._server.tick
        response.counter.value += 1
        self._reader.clear()
        self._send(response.last_parts, response.last_size, is_last=True)
        if not self._unsent and self.state is not State.CLOSED:
            self._close()

    def _send(
        self, parts: Sequence[_Buffer], size: int, *, is_last: bool = False
    ) -> None:
        """Send as much as the socket accepts, and keep the rest."""
        try:
            sent = self._sendmsg(parts)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.abort()
            return
        if sent == size:
            return
        self._unsent = skip_bytes(parts, sent)
        state = State.CLOSING if is_last else State.SENDING
        if self.state is not state:
            self._become(state)
        self._server.admission.count_in_flight(self.caller, 1)
        self._server.loop.add_writer(self._socket.fileno(), self.on_writable)

    def _cancel_long_poll(self) -> None:
        if self._long_poll is not None:
            self._long_poll.cancel()
            self._long_poll = None
            self._server.admission.count_long_polls(self.caller, -1)

    def _become(self, state: State) -> None:
        if state not in TRANSITIONS[self.state]:
            raise RuntimeError(f"a connection cannot go from {self.state} to {state}")
        self.state = state
        if self._is_reading:
            self._update_reading()

    def _update_reading(self) -> None:
        """Register with the event loop if the state needs it, else unregister."""
        needs_input = self.state is _IDLE or (
            self.state is State.LONG_POLLING
            and not self._has_input_ended
            and not self._reader.is_full
        )
        if needs_input == self._is_reading:
            return
        self._is_reading = needs_input
        if needs_input:
            self._server.loop.add_reader(self._socket.fileno(), self.on_readable)
        else:
            self._server.loop.remove_reader(self._socket.fileno())

    def _close(self) -> None:
        self._become(State.CLOSED)
        self._server.admission.remove(self)
        try:
            for _ in range(_MAX_DRAINING_READS):
                if not self._recv_into(self._buffer):
                    break
        except OSError:  # no more bytes, or no peer
            pass
        self._socket.close()


def _has_hung_up(fd: int) -> bool:
    """Return whether the peer has closed both directions of a connection."""
    poll = select.poll()
    poll.register(fd, 0)  # POLLHUP needs no registration
    return bool(poll.poll(0))
