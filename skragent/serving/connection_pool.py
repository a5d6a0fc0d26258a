"""Everybody who is connected to one socket, and how much of it is taken: by whom.

Three pools are bounded: connections, requests in flight (whose answer is not taken yet)
and among these the long-polls. Where one is used up, who asks for a place gets that of
somebody who has more of them: so a user who takes all there is keeps nobody out.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from skragent.serving.guarded import close_in_thread
from skragent.serving.quotas import Quotas

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from skragent.observe import Counters
    from skragent.serving.http.interfaces import Loop
    from skragent.serving.limits import Limits
    from skragent.serving.quotas import Quota, Resource


class Member(Protocol):
    """A connection, as the crowd sees it."""

    quota: Quota
    since: int  # the tick from which on it has waited for something

    @property
    def is_long_polling(self) -> bool:
        """Tell whether a request waits."""
        ...

    @property
    def is_in_flight(self) -> bool:
        """Tell whether there is a request whose answer is not taken yet."""
        ...

    def give_up(self) -> None:
        """Answer what waits; close where an answer is not taken."""
        ...

    def evict(self) -> None:
        """Close, with an answer to what waits."""
        ...


_Member = TypeVar("_Member", bound=Member)


class ConnectionPool(Generic[_Member]):
    """Counts and bounds.

    Args:
        limits: the bounds.
        counters: where it is shown how many there are.
        name: of the socket.
        has_names: whether callers are known; else all of them are one account, and
            the newest of them comes first.
    """

    def __init__(
        self, limits: Limits, counters: Counters, name: str, *, has_names: bool
    ) -> None:
        self.quotas = Quotas(limits.answers_per_second_per_uid)
        self.is_busy = False  # no more requests in flight are admitted
        self.is_empty = asyncio.Event()
        self.is_empty.set()
        self._limits = limits
        self._counters = counters
        self._name = name
        self._has_names = has_names
        self._members: set[_Member] = set()
        self._in_flight = 0
        self._long_polls = 0
        self._closing = 0  # sockets that are being closed in threads
        counters.connections[name] = counters.in_flight[name] = 0

    def __bool__(self) -> bool:
        return bool(self._members)

    def __iter__(self) -> Iterator[_Member]:
        return iter(list(self._members))  # who is met may leave

    def change_limits(self, limits: Limits) -> None:
        """Have other bounds from now on: who is there already stays."""
        self._limits = limits
        self.quotas.answers_per_tick = limits.answers_per_second_per_uid
        self.is_busy = self._in_flight >= limits.requests_in_flight

    def has_room(self, quota: Quota) -> bool:
        """Tell whether one more connection is admitted, if need be for another."""
        if quota.connections >= self._limits.connections_per_uid:
            return False
        if self._taken < self._limits.connections:
            return True
        other = self._outweighed("connections", quota, lambda _: True)
        if other is not None:
            other.evict()
        return self._taken < self._limits.connections

    def may_fly(self, quota: Quota) -> bool:
        """Tell whether one more request may be in flight, if need be for another."""
        if self.is_busy:
            other = self._outweighed("in_flight", quota, lambda m: m.is_in_flight)
            if other is not None:
                other.give_up()
        return not self.is_busy

    def may_park(self, quota: Quota) -> bool:
        """Tell whether one more request may wait, if need be for another."""
        if self._long_polls >= self._limits.long_polls:
            other = self._outweighed("long_polls", quota, lambda m: m.is_long_polling)
            if other is not None:
                other.give_up()
        return self._long_polls < self._limits.long_polls

    def add(self, member: _Member) -> None:
        """Count a connection."""
        self._members.add(member)
        member.quota.connections += 1
        self._counters.connections[self._name] += 1
        self.is_empty.clear()

    def remove(self, member: _Member) -> None:
        """Count it no more."""
        if member not in self._members:
            return
        self._members.remove(member)
        member.quota.connections -= 1
        self._counters.connections[self._name] -= 1
        if not self._members:
            self.is_empty.set()

    def close_slowly(self, quota: Quota, sock: socket.socket, loop: Loop) -> None:
        """Close a socket in a thread; it counts as a connection for as long."""
        quota.connections += 1
        self._closing += 1

        def is_closed() -> None:
            quota.connections -= 1
            self._closing -= 1

        close_in_thread(sock, lambda: loop.call_soon_threadsafe(is_closed))

    def count_in_flight(self, quota: Quota, change: int) -> None:
        """Count requests whose answer is not taken yet."""
        quota.in_flight += change
        self._in_flight += change
        self._counters.in_flight[self._name] = self._in_flight
        self.is_busy = self._in_flight >= self._limits.requests_in_flight

    def count_parked(self, quota: Quota, change: int) -> None:
        """Count requests that wait, which are in flight as well."""
        quota.long_polls += change
        self._long_polls += change
        self.count_in_flight(quota, change)

    @property
    def _taken(self) -> int:
        return len(self._members) + self._closing

    def _outweighed(
        self, pool: Resource, quota: Quota, uses: Callable[[_Member], bool]
    ) -> _Member | None:
        """Find who gives way: of the account that has most, who has waited longest.

        Nobody does where whoever asks would have as much.
        """
        heaviest = self.quotas.heaviest(pool)
        if self._has_names and getattr(heaviest, pool) <= getattr(quota, pool) + 1:
            return None
        candidates = (
            member
            for member in self._members
            if member.quota is heaviest and uses(member)
        )
        return min(candidates, key=lambda member: member.since, default=None)
