"""One connection: bytes in, requests found, answers out, in order.

Theory of operation. A request is a head and nothing more, so the wire looks for empty
lines: what precedes one is parsed (`request`), handed to the listener's handler, and
answered before the next one is looked at. uvloop's high-water mark is 0: as long as
a byte of an answer is not taken, the connection is paused, so a connection never has
more than one answer under way nor more than one read pending. What the transport
could not send at once it keeps as the view that it was given: key bytes are not
copied, and their arena lives until the reader has them or is cut.

The hot path: a client that keeps its connection sends the same bytes again, and gets
the same answer, unless that was retired meanwhile. No parsing, no decision, one
writev(2). The peer is the connection's, so the decision holds for it.

Time is the listener's tick of one second: no timers, no clock calls per request.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

from skragent.errors import RequestError, ServeError
from skragent.observe import Event, log
from skragent.serving.peers import NOBODY
from skragent.serving.request import END_OF_HEAD, parse_head, refuse_unfinished

if TYPE_CHECKING:
    from skragent.serving.answer import Answer
    from skragent.serving.listener import Listener

# Overrides below are without @override, which is Python 3.12's.

_NEVER: Final = -1


class Connection(asyncio.BufferedProtocol):
    """The server's end of one connection."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._buffer = listener.read_buffer
        self._pending = bytearray()  # received and not yet answered
        self._is_paused = False  # an answer is not taken yet
        self._is_ending = False  # nothing more is read or answered
        self._same_size = _NEVER  # of the request that `_same_answer` is for
        self._same_request = b""
        self._same_answer: Answer | None = None
        self._since = listener.tick  # of what is waited for: see `is_overdue`
        self.peer = NOBODY

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # type: ignore[explicit-override]
        """Learn who it is, and take it in or turn it away."""
        self._transport = cast("asyncio.Transport", transport)  # of a stream server
        self._writelines = self._transport.writelines
        self._transport.set_write_buffer_limits(high=0)
        try:
            refusal = self._listener.admit(
                self, transport.get_extra_info("socket").fileno()
            )
        except OSError:
            self.cut()
            return
        if refusal is not None:
            self._finish(refusal)

    def get_buffer(self, sizehint: int) -> bytearray:  # type: ignore[explicit-override] # noqa: ARG002 - asyncio's
        """Offer one buffer for all connections: it is used before the next read."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:  # type: ignore[explicit-override]
        """Answer what came; see the hot path above."""
        if (
            nbytes == self._same_size
            and not self._pending
            and self._buffer.startswith(self._same_request)
        ):
            answer = self._same_answer
            if answer is not None and (parts := answer.parts):
                answer.cell.value += 1
                self._since = self._listener.tick
                self._writelines(parts)
                return
        if not self._is_ending:
            if not self._pending:
                self._since = self._listener.tick
            self._pending += self._buffer[:nbytes]
            self._answer_pending()

    def pause_writing(self) -> None:  # type: ignore[explicit-override]
        """Stop: an answer is not taken at once."""
        self._is_paused = True
        self._since = self._listener.tick
        self._transport.pause_reading()
        self._listener.counters.in_flight[self._listener.name] += 1

    def resume_writing(self) -> None:  # type: ignore[explicit-override]
        """Go on: the answer is taken."""
        self._end_pause()
        self._since = self._listener.tick
        if not self._is_ending:
            self._transport.resume_reading()
            self._answer_pending()

    def connection_lost(self, exc: Exception | None) -> None:  # type: ignore[explicit-override] # noqa: ARG002 - asyncio's
        """Let go of everything."""
        self._end_pause()
        self._is_ending = True
        self._same_answer = None
        self._listener.forget(self)

    def is_overdue(self) -> bool:
        """Tell whether the other end let us wait for too long, at this tick."""
        limits = self._listener.limits
        if self._is_paused:
            allowed = limits.send_seconds
        elif self._pending:
            allowed = limits.head_seconds
        else:
            allowed = limits.idle_seconds
        return self._listener.tick - self._since > allowed

    @property
    def is_taking(self) -> bool:
        """Tell whether an answer is under way that is not wholly taken yet."""
        return self._is_paused

    def give_up(self) -> None:
        """End an overdue connection: with a word where the other end may read it."""
        if self._pending and not self._is_paused:
            self._refuse(
                RequestError(
                    "the request did not come in time",
                    code="serve.timeout",
                    status=408,
                )
            )
        else:
            self.cut()

    def end(self) -> None:
        """Answer nothing more; close once the answer under way is taken."""
        self._is_ending = True
        self._same_size = _NEVER
        self._pending.clear()
        self._transport.close()

    def cut(self) -> None:
        """Close at once; an answer that is under way ends in the middle."""
        self._is_ending = True
        self._same_size = _NEVER
        self._transport.abort()

    def _answer_pending(self) -> None:
        """Answer every request that is complete, one at a time."""
        pending = self._pending
        max_bytes = self._listener.limits.head_bytes
        try:
            while pending and not (self._is_paused or self._is_ending):
                if pending.startswith(b"\r\n"):  # RFC 9112 §2.2: ignore an empty line
                    del pending[:2]
                    continue
                end = pending.find(END_OF_HEAD, 0, max_bytes)
                if end < 0:
                    refuse_unfinished(pending, max_bytes=max_bytes)
                    return
                head = bytes(pending[: end + len(END_OF_HEAD)])
                del pending[: len(head)]
                self._answer(head)
                self._since = self._listener.tick
        except RequestError as error:
            self._refuse(error)

    def _answer(self, head: bytes) -> None:
        request = parse_head(head)
        try:
            answer = self._listener.handle(request, self.peer)
        except Exception as error:  # noqa: BLE001 - one connection's trouble stays its own
            log(Event.REQUEST_FAILED, "a request failed unexpectedly", error=error)
            self._refuse(ServeError("something went wrong here", code="internal"))
            return
        if not request.keep_alive:
            self._finish(answer)
            return
        if answer.is_lasting:
            self._same_size = len(head)
            self._same_request = head
            self._same_answer = answer
        answer.cell.value += 1
        self._writelines(answer.parts)

    def _refuse(self, error: ServeError) -> None:
        self._finish(self._listener.problem(error))

    def _finish(self, answer: Answer) -> None:
        """Send a last answer and close once it is taken."""
        answer.cell.value += 1
        self._writelines(answer.closing_parts())
        self.end()

    def _end_pause(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._listener.counters.in_flight[self._listener.name] -= 1
