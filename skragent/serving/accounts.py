"""What each user of the machine takes of a socket: connections, and answers a second.

The allowance is refilled at each tick of the listener, so no clock is asked per
request: a user has so many answers from one tick to the next.
"""

from __future__ import annotations


class Account:
    """One uid's share."""

    __slots__ = ("connections", "left")

    def __init__(self, left: int) -> None:
        self.connections = 0
        self.left = left  # answers until the next tick


class Accounts:
    """All shares, by uid. One without connections is forgotten at the next tick."""

    def __init__(self, answers_per_tick: int) -> None:
        self._answers_per_tick = answers_per_tick
        self._by_uid: dict[int, Account] = {}

    def __len__(self) -> int:
        return len(self._by_uid)

    def of(self, uid: int) -> Account:
        """Return a uid's share."""
        account = self._by_uid.get(uid)
        if account is None:
            account = self._by_uid[uid] = Account(self._answers_per_tick)
        return account

    def refill(self) -> None:
        """Begin a new second; who is gone is forgotten."""
        for uid in [u for u, a in self._by_uid.items() if not a.connections]:
            del self._by_uid[uid]
        for account in self._by_uid.values():
            account.left = self._answers_per_tick
