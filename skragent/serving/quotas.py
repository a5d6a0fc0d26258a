"""What each user of the machine takes of a socket, so that none takes it from others.

An account is a uid's; those whom no rule names share one (`STRANGERS`), for one user
may have tens of thousands of uids (subuid(5)).

The allowance of answers is refilled at each tick of the listener, so no clock is asked
per request; and it is given out in parts, one for each turn of the event loop (see
`turns`).
"""

from __future__ import annotations

from typing import Final, Literal

SHARED_QUOTA: Final = -2

# What may be used up, and by whom most.
Resource = Literal["connections", "in_flight", "long_polls"]

# Answers to one account before everybody else has its turn: some milliseconds, where
# they are sent as they were before. Another one counts as so many of these, and as one
# more for so many bytes of its request.
TURN: Final = 512
OTHERS_COST: Final = 16
_BYTES_COST: Final = 64


class Quota:
    """One user's share."""

    __slots__ = ("allowance", "connections", "in_flight", "left", "long_polls")

    def __init__(self, answers_per_tick: int) -> None:
        self.connections = 0
        self.in_flight = 0  # answers that are not taken yet, and long-polls
        self.long_polls = 0
        self.left = 0  # answers in this turn
        self.allowance = 0  # and after it, until the next tick
        self.refill(answers_per_tick)

    def refill(self, answers_per_tick: int) -> None:
        """Begin a new second."""
        self.left = 0
        self.allowance = answers_per_tick
        self.begin_turn()

    def take(self, request_bytes: int) -> None:
        """Take one answer, and put others off to the next turn if it takes long."""
        self.left -= 1
        self._put_off(OTHERS_COST - 1 + request_bytes // _BYTES_COST)

    def take_part(self, request_bytes: int) -> None:
        """Let others have their turn after a part of a body: it was work as well."""
        self._put_off(request_bytes // _BYTES_COST)

    def _put_off(self, count: int) -> None:
        put_off = min(count, self.left)
        self.left -= put_off
        self.allowance += put_off

    def begin_turn(self) -> None:
        """Give out the next part of the allowance."""
        part = min(TURN - self.left, self.allowance)
        self.left += part
        self.allowance -= part


class Quotas:
    """All shares. One without connections is forgotten at the next tick."""

    def __init__(self, answers_per_tick: int) -> None:
        self.answers_per_tick = answers_per_tick
        self._by_owner: dict[int, Quota] = {}

    def __len__(self) -> int:
        return len(self._by_owner)

    def of(self, owner: int) -> Quota:
        """Return somebody's share."""
        quota = self._by_owner.get(owner)
        if quota is None:
            quota = self._by_owner[owner] = Quota(self.answers_per_tick)
        return quota

    def refill(self) -> None:
        """Begin a new second; who is gone is forgotten."""
        for owner in [o for o, a in self._by_owner.items() if not a.connections]:
            del self._by_owner[owner]
        for quota in self._by_owner.values():
            quota.refill(self.answers_per_tick)

    def heaviest(self, pool: Resource) -> Quota:
        """Find who has most of something. There is somebody."""
        return max(self._by_owner.values(), key=lambda quota: getattr(quota, pool))
