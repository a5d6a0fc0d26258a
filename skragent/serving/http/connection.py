"""One connection: bytes in, requests found, answers out, in order.

Theory of operation. A request is a head, and a body where Content-Length or chunks
say so. It is parsed (`inbox`), handed to the listener's handler, and answered before
the next one is looked at. As long as a byte of an answer is not taken, or a request is
parked (`park`), nothing more is answered; as long as a byte is not taken, nothing is
read either. So a connection has at most one answer under way and a bounded number of
bytes pending. What the socket did not take at once stays the view that it was: key
bytes are never copied, and their arena lives until the reader has them or is cut.

A client that expects 100 (Continue) gets it if the body is wanted. If the body is not
wanted, the request is answered without it and the connection ends, because the client
may send the body all the same.

Sockets, and not asyncio's transports: a new connection that sends its request at once,
which most do, is answered and gone before a transport would exist.

The hot path has two forms. A client that keeps its connection sends the same bytes
again, and gets the same answer, unless that was retired meanwhile. No parsing, no
decision, one sendmsg(2). The peer is the connection's, so the decision holds for it.
And a client that makes a connection for each request sends the same bytes as one before
it with the same identity: see `Listener.remember`.

Time is the listener's tick of one second: no timers, no clock calls per request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from skragent.errors import RequestError, ServeError
from skragent.observe import Event, log
from skragent.serving.http.long_poll import LongPoll
from skragent.serving.http.reader import RequestReader
from skragent.serving.http.response import rest_of
from skragent.serving.peers import has_hung_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skragent.serving.http.interfaces import Socket
    from skragent.serving.http.request import Request
    from skragent.serving.http.response import Response
    from skragent.serving.listener import Listener
    from skragent.serving.peers import Peer
    from skragent.serving.quotas import Quota

_NEVER: Final = -1
# What is read and thrown away before a refused connection is closed: a socket that is
# closed with bytes unread resets the other end, which may then not see the refusal.
_DRAINED_READS: Final = 4
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_Buffer = bytes | memoryview


class Connection:
    """The server's end of one connection."""

    __slots__ = (
        "_buffer",
        "_is_closed",
        "_is_ending",
        "_is_half_closed",
        "_is_head",
        "_is_held",
        "_is_kept_alive",
        "_is_reading",
        "_listener",
        "_long_poll",
        "_reader",
        "_recv_into",
        "_same_answer",
        "_same_request",
        "_same_size",
        "_sendmsg",
        "_socket",
        "_unsent",
        "peer",
        "quota",
        "since",
    )

    def __init__(
        self, listener: Listener, sock: Socket, peer: Peer, quota: Quota
    ) -> None:
        self._listener = listener
        self._socket = sock
        self._recv_into = sock.recv_into
        self._sendmsg = sock.sendmsg
        self.quota = quota
        self._buffer = listener.read_buffer  # one for all: used before the next read
        self._reader = RequestReader(listener.limits)
        self._unsent: list[_Buffer] = []  # of an answer that is not taken yet
        self._long_poll: LongPoll | None = None
        self._is_kept_alive = True  # after the answer to what is parked
        self._is_head = False  # its answer has no body
        self._is_reading = False
        self._is_ending = False  # nothing more is read or answered
        self._is_closed = False
        self._is_half_closed = False  # the other end sends nothing more
        self._is_held = False  # it is not its turn: see `turns`
        self._same_size = _NEVER  # of the request that `_same_answer` is for
        self._same_request = b""
        self._same_answer: Response | None = None
        self.since = listener.tick  # what is waited for is waited for: see `is_overdue`
        self.peer = peer

    def begin(self, count: int) -> None:
        """Answer what came with the connection; wait for more where it goes on.

        Args:
            count: what is in the buffer already; 0 where the other end was gone.
        """
        if count >= 0:
            self._take(count)
        if not (self._is_ending or self._unsent or self._is_held):
            self._start_reading()

    def send_rest(self, parts: Sequence[_Buffer], sent: int) -> None:
        """Go on with a last answer that was not taken at once; then close."""
        self._keep(parts, sent)
        self.end()

    def on_readable(self) -> None:
        """Read once, and answer; see the hot path above."""
        quota, listener = self.quota, self._listener
        if quota.left <= 0 and listener.fair_queue.defers(quota):
            return  # it is readable still in the next turn
        try:
            count = self._recv_into(self._buffer)
        except BlockingIOError:
            return
        except OSError:
            self.cut()
            return
        if (
            count == self._same_size
            and quota.left > 0
            and not self._reader
            and not listener.pool.is_busy
            and self._buffer.startswith(self._same_request)
        ):
            answer = self._same_answer
            if answer is not None and (parts := answer.parts):
                quota.left -= 1
                answer.cell.value += 1
                self.since = listener.tick
                self._send(parts, answer.size)
                return
        self._take(count)

    def on_writable(self) -> None:
        """Send more of an answer; go on with what is pending when it is taken."""
        unsent, self._unsent = self._unsent, []
        self._listener.loop.remove_writer(self._socket.fileno())
        self._listener.pool.count_in_flight(self.quota, -1)
        self._send(unsent, sum(map(len, unsent)))
        if self._unsent or self._is_closed:
            return
        if self._is_ending:
            self._close()
            return
        self.since = self._listener.tick
        self._go_on()

    def is_overdue(self) -> bool:
        """Tell whether the other end let us wait for too long, at this tick."""
        if self._long_poll is not None:
            return self._listener.tick > self._long_poll.last_tick
        limits = self._listener.limits
        if self._unsent:
            allowed = limits.send_timeout_seconds
        elif self._reader:
            allowed = limits.head_timeout_seconds
        else:
            allowed = limits.idle_timeout_seconds
        return self._listener.tick - self.since > allowed

    @property
    def is_taking(self) -> bool:
        """Tell whether an answer is under way that is not wholly taken yet."""
        return bool(self._unsent)

    @property
    def is_long_polling(self) -> bool:
        """Tell whether a request waits."""
        return self._long_poll is not None

    @property
    def is_in_flight(self) -> bool:
        """Tell whether there is a request whose answer is not taken yet."""
        return self.is_taking or self.is_long_polling

    def has_nobody(self) -> bool:
        """Tell whether a request waits for somebody who has gone, and nothing told us.

        Asked at each tick of those that are not read, for they sent all or too much.
        """
        if self._long_poll is None or self._is_reading:
            return False
        return has_hung_up(self._socket.fileno())

    def resume(self) -> None:
        """Go on: it is the turn of this connection's user."""
        self._is_held = False
        self._go_on()

    def evict(self) -> None:
        """Give way to somebody: close, with an answer to what is parked."""
        self.end()
        self.cut()

    def give_up(self) -> None:
        """End an overdue wait: with a word where the other end may read it."""
        if self._long_poll is not None:
            self._long_poll.answer_now()
        elif self._reader and not self._unsent:
            self._refuse_pending(
                RequestError(
                    "the request did not come in time",
                    code="serve.timeout",
                    status=408,
                )
            )
        else:
            self.cut()

    def deliver(self, answer: Response) -> None:
        """Send the answer to the request that was parked."""
        self._unpark()
        self.since = self._listener.tick
        if self._is_head:
            answer = answer.without_body()
        if self._is_kept_alive:
            answer.cell.value += 1
            self._send(answer.parts, answer.size)
            if not (self._unsent or self._is_ending):
                self._go_on()
        else:
            self._finish(answer)

    def end(self) -> None:
        """Answer nothing more; close once the answer under way is taken."""
        if self._long_poll is not None:
            self._is_kept_alive = False
            self._long_poll.answer_now()
            return
        self._is_ending = True
        self._same_size = _NEVER
        self._reader.clear()
        self._stop_reading()
        if not (self._unsent or self._is_closed):
            self._close()

    def cut(self) -> None:
        """Close at once; an answer that is under way ends in the middle."""
        if self._is_closed:
            return
        if self._unsent:
            self._unsent = []
            self._listener.pool.count_in_flight(self.quota, -1)
            self._listener.loop.remove_writer(self._socket.fileno())
        self._unpark()
        self._stop_reading()
        self._close()

    def _take(self, count: int) -> None:
        """Take in what was read."""
        if count == 0:
            self._half_close()
            return
        if not self._reader:
            self.since = self._listener.tick
        self._reader.add(self._buffer[:count])
        if self._long_poll is None:
            self._answer_pending()
            if self._reader.awaits_body:
                self.quota.take_part(count)
        elif self._reader.is_full:
            self._stop_reading()  # it waits for an answer and asks on and on

    def _half_close(self) -> None:
        """Note that no request comes any more; one that is parked may be waited for."""
        if self._long_poll is None:
            self.end()
            return
        if has_hung_up(self._socket.fileno()):
            self.cut()
            return
        self._is_half_closed = True
        self._stop_reading()

    def _hold(self) -> None:
        self._is_held = True
        self._stop_reading()

    def _go_on(self) -> None:
        self._answer_pending()
        is_pending = self._is_ending or self._unsent or self._is_held
        if self._long_poll is None and not is_pending:
            if self._is_half_closed:
                self.end()
            else:
                self._start_reading()

    def _answer_pending(self) -> None:
        """Answer every request that is complete, one at a time."""
        reader, quota, fair_queue = self._reader, self.quota, self._listener.fair_queue
        try:
            while reader and not (
                self._unsent or self._is_ending or self._long_poll or self._is_held
            ):
                if quota.left <= 0 and fair_queue.defers(quota):
                    self._hold()
                    fair_queue.wait_for_turn(self)
                    return
                received = reader.next()
                if received is None:
                    return
                if received.is_expecting:
                    self._meet_expectation(received.request, received.size)
                else:
                    self._answer(received.request, received.raw, received.size)
        except RequestError as error:
            self._refuse_pending(error)

    def _meet_expectation(self, request: Request, size: int) -> None:
        """Ask for a body that is wanted; else answer the request as it is, and close.

        RFC 9110 §10.1.1. A body that has begun to come needs no 100.
        """
        if self.quota.left > 0 and self._listener.takes_body(request, self.peer):
            if not self._reader.has_body_begun:
                self._send((_CONTINUE,), len(_CONTINUE))
            return
        self._answer(request.as_last(), b"", size)

    def _answer(self, request: Request, raw: bytes, size: int) -> None:
        """Answer one request; `raw` is empty where it is not to be remembered."""
        self.since = self._listener.tick
        self._is_kept_alive = request.keep_alive
        self._is_head = request.method == "HEAD"
        if self.quota.left <= 0:
            # All of a second is used up: told so once, and not read before the next.
            self._hold()
            self._listener.fair_queue.wait_for_tick(self)
        try:
            answer = self._listener.answer(request, self.peer, self.quota, size)
        except Exception as error:  # noqa: BLE001 - one connection's trouble stays its own
            log(Event.REQUEST_FAILED, "a request failed unexpectedly", error=error)
            self.refuse(ServeError("something went wrong here", code="internal"))
            return
        if isinstance(answer, LongPoll):
            if self._listener.pool.may_park(self.quota):
                self._long_poll = answer
                self._same_size = _NEVER  # what comes meanwhile is not answered at once
                self._listener.pool.count_parked(self.quota, 1)
                answer.park(self, self._listener.tick)
                return
            answer = self._listener.refuse_to_park()
        if self._is_head:
            answer = answer.without_body()
        if not request.keep_alive:
            if answer.is_lasting and raw:
                self._listener.remember(self.peer, raw, answer)
            self._finish(answer)
            return
        if answer.is_lasting and raw:
            self._same_size = len(raw)
            self._same_request = raw
            self._same_answer = answer
        answer.cell.value += 1
        self._send(answer.parts, answer.size)

    def _send(self, parts: Sequence[_Buffer], size: int) -> None:
        """Send what is taken at once, and keep the rest."""
        try:
            sent = self._sendmsg(parts)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.cut()
            return
        if sent != size:
            self._keep(parts, sent)

    def _keep(self, parts: Sequence[_Buffer], sent: int) -> None:
        """Keep what is not taken, and wait until more can be sent."""
        self._unsent = rest_of(parts, sent)
        self._listener.pool.count_in_flight(self.quota, 1)
        self._stop_reading()
        self._listener.loop.add_writer(self._socket.fileno(), self.on_writable)

    def refuse(self, error: ServeError) -> None:
        """Say no, and close."""
        answer = self._listener.problem(error)
        self._finish(answer.without_body() if self._is_head else answer)

    def _refuse_pending(self, error: ServeError) -> None:
        """Refuse an incomplete request, and close the connection."""
        self._is_head = self._reader.is_head
        self.refuse(error)

    def _finish(self, answer: Response) -> None:
        """Send a last answer and close once it is taken."""
        self.since = self._listener.tick
        answer.cell.value += 1
        self._send(answer.last_parts, answer.last_size)
        if not self._is_closed:
            self.end()

    def _unpark(self) -> None:
        if self._long_poll is not None:
            self._long_poll.forget()
            self._long_poll = None
            self._listener.pool.count_parked(self.quota, -1)

    def _start_reading(self) -> None:
        if not self._is_reading:
            self._is_reading = True
            self._listener.loop.add_reader(self._socket.fileno(), self.on_readable)

    def _stop_reading(self) -> None:
        if self._is_reading:
            self._is_reading = False
            self._listener.loop.remove_reader(self._socket.fileno())

    def _close(self) -> None:
        self._is_closed = self._is_ending = True
        self._same_size = _NEVER
        self._same_answer = None
        self._listener.pool.remove(self)
        try:
            for _ in range(_DRAINED_READS):
                if not self._recv_into(self._buffer):
                    break
        except OSError:  # nothing more is there, or nobody
            pass
        self._socket.close()
