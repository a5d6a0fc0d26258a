"""Long polls: requests that wait for a change of a resource, for a limited time.

A handler that has no response yet returns a `LongPoll`. Its connection waits. A change
of the resource calls `LongPolls.notify`, which asks the handler again.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from skragent.serving.http.response import Response

    # Returns a response, or None to wait longer. With True it must return a response.
    Respond = Callable[[bool], Response | None]


class WaitingConnection(Protocol):
    """The connection of a long poll."""

    def deliver(self, response: Response) -> None:
        """Send the response."""
        ...

    def fail(self, error: Exception) -> None:
        """Close at once because of an unexpected error."""
        ...


class LongPoll:
    """One request that waits.

    Args:
        seconds: the shortest time to wait; the server rounds up to whole ticks.
        respond: the handler.
        group: all long polls for the same resource.
    """

    __slots__ = ("_connection", "_group", "_respond", "_seconds", "last_tick")

    def __init__(self, seconds: float, respond: Respond, group: set[LongPoll]) -> None:
        self._seconds = seconds
        self._respond = respond
        self._group = group
        self._connection: WaitingConnection | None = None
        self.last_tick = 0

    def start(self, connection: WaitingConnection, tick: int) -> None:
        """Begin to wait."""
        self._connection = connection
        self.last_tick = tick + math.ceil(self._seconds)
        self._group.add(self)

    def notify(self) -> None:
        """Respond if the handler has a response now."""
        self._deliver(is_final=False)

    def finish(self) -> None:
        """Respond in any case: the time is over."""
        self._deliver(is_final=True)

    def cancel(self) -> None:
        """Stop waiting, without a response."""
        self._connection = None
        self._group.discard(self)

    def _deliver(self, *, is_final: bool) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            response = self._respond(is_final)
        except Exception as error:  # noqa: BLE001 - an error ends only its connection
            connection.fail(error)
            return
        if response is not None:
            connection.deliver(response)


class LongPolls:
    """All long polls of one socket, by resource. `admission` limits their number."""

    def __init__(self) -> None:
        self._groups: dict[str, set[LongPoll]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._groups.values()))

    def respond_or_wait(
        self, resource: str, seconds: float, respond: Respond
    ) -> Response | LongPoll:
        """Return the response if there is one, else a long poll."""
        response = respond(seconds <= 0)
        if response is not None:
            return response
        return LongPoll(seconds, respond, self._groups.setdefault(resource, set()))

    def notify(self, resource: str) -> None:
        """Ask the handlers of all long polls for a resource."""
        for long_poll in list(self._groups.get(resource, ())):  # responses remove some
            long_poll.notify()
