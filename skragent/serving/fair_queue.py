"""Whose turn it is: nobody keeps the event loop to itself.

An account that had its part of a turn waits until the others had theirs, which is one
round of the event loop; one that had all of a second is told so (429), and its
connection is not read before the next tick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from skragent.serving.http.interfaces import Loop
    from skragent.serving.quotas import Quota


class Waiting(Protocol):
    """A connection that answers nothing for a while."""

    def resume(self) -> None:
        """Go on."""
        ...


class FairQueue:
    """Gives out turns. Set `loop` before anything else is done."""

    loop: Loop

    def __init__(self) -> None:
        self._hungry: list[Quota] = []
        self._until_turn: list[Waiting] = []
        self._until_tick: list[Waiting] = []
        self._is_coming = False

    def defers(self, quota: Quota) -> bool:
        """Tell whether an account with nothing left has its next part soon.

        Where it has not, all of its second is used up.
        """
        if quota.allowance <= 0:
            return False
        self._hungry.append(quota)
        if not self._is_coming:
            self._is_coming = True
            self.loop.call_soon(self._next)
        return True

    def wait_for_turn(self, connection: Waiting) -> None:
        """Resume a connection at the next turn, which `defers` promised."""
        self._until_turn.append(connection)

    def wait_for_tick(self, connection: Waiting) -> None:
        """Resume a connection at the next tick."""
        self._until_tick.append(connection)

    def tick(self) -> None:
        """Begin a new second; the accounts are refilled already."""
        waiting, self._until_tick = self._until_tick, []
        for connection in waiting:
            connection.resume()

    def _next(self) -> None:
        self._is_coming = False
        hungry, self._hungry = self._hungry, []
        for quota in hungry:
            if quota.left <= 0:
                quota.begin_turn()
        waiting, self._until_turn = self._until_turn, []
        for connection in waiting:
            connection.resume()
