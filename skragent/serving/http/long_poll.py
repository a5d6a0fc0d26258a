"""Requests that are answered later: when a key changes, or when their time is over.

A handler that has nothing to say yet returns a `Parked`; its connection waits. What
changes calls `look`, which asks the handler's question again.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Protocol

from skragent.observe import Event, log

if TYPE_CHECKING:
    from collections.abc import Callable

    from skragent.serving.http.response import Response

MAX_WAIT_SECONDS: Final = 300.0


class Waiter(Protocol):
    """The connection that a parked request came on."""

    def deliver(self, answer: Response) -> None:
        """Send the answer."""
        ...

    def cut(self) -> None:
        """Close at once."""
        ...


class LongPoll:
    """One request that waits.

    Args:
        seconds: how long, at least; ticks are whole seconds.
        ask: gives the answer, or None to go on waiting; with True it must answer.
        lot: where it is kept while it waits.
    """

    __slots__ = ("_ask", "_lot", "_seconds", "_waiter", "last_tick")

    def __init__(
        self,
        seconds: float,
        ask: Callable[[bool], Response | None],
        lot: set[LongPoll],
    ) -> None:
        self._seconds = seconds
        self._ask = ask
        self._lot = lot
        self._waiter: Waiter | None = None
        self.last_tick = 0

    def park(self, waiter: Waiter, tick: int) -> None:
        """Begin to wait."""
        self._waiter = waiter
        self.last_tick = tick + math.ceil(self._seconds)
        self._lot.add(self)

    def look(self) -> None:
        """Answer if there is something to say now."""
        self._deliver(must=False)

    def answer_now(self) -> None:
        """Answer in any case: the time is over."""
        self._deliver(must=True)

    def _deliver(self, *, must: bool) -> None:
        waiter = self._waiter
        if waiter is None:
            return
        try:
            answer = self._ask(must)
        except Exception as error:  # noqa: BLE001 - one request's trouble stays its own
            log(Event.REQUEST_FAILED, "a request failed unexpectedly", error=error)
            waiter.cut()
            return
        if answer is not None:
            waiter.deliver(answer)

    def forget(self) -> None:
        """Wait no longer."""
        self._waiter = None
        self._lot.discard(self)


class LongPolls:
    """All that waits on one socket, by what it waits for; the listener bounds it."""

    def __init__(self) -> None:
        self._lots: dict[str, set[LongPoll]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._lots.values()))

    def now_or_later(
        self, what: str, seconds: float, ask: Callable[[bool], Response | None]
    ) -> Response | LongPoll:
        """Ask; where there is no answer yet and the caller waits, park the question."""
        answer = ask(seconds <= 0)
        if answer is not None:
            return answer
        return LongPoll(seconds, ask, self._lots.setdefault(what, set()))

    def look(self, what: str) -> None:
        """Ask for everyone who waits for this; who is answered leaves meanwhile."""
        for long_poll in list(self._lots.get(what, ())):
            long_poll.look()
