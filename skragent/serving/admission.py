"""Admission: which connections and requests one socket serves, and in which order.

A connection is admitted if the socket and the caller's user have a connection left
(503 `serve.connections`). Each of its requests passes these steps, in this order:

1. The fair queue: deficit round robin (Shreedhar and Varghese, 1995) over the users, in
   rounds of the event loop. A user that has used up the quantum of a round waits for
   the next round. The queue rejects no request.
2. The rate: a user that has used up the quota of a second gets 429 `serve.rate`.
3. Requests in flight: responses that the peer has not read completely, and long polls
   (503 `serve.busy`).
4. The handler: it returns a response, or a long poll.
5. Long polls (503 `serve.busy`).

A response from the user's cache skips steps 2 to 5. It takes 1 from the quota,
and it is not sent if that quota is used up or step 3 would fail.

Connections, requests in flight and long polls are limited for all users together. If a
limit is reached, the user with the most of them loses one to a user with fewer: the one
that has waited longest. A long poll gets its response early; the connection closes if
it has more requests. Any other connection is closed, even in the middle of a response
that its peer does not read. So a user that takes everything locks out no other user.

Without the fair queue, a user with 380 connections delayed every hundredth request of
another user by 143 ms instead of 21 ms, and a user with one connection and pipelined
requests by 31 ms instead of 2 ms (measured on two busy processors).

All users that no rule names share one quota, because one user may have tens of
thousands of user ids (subuid(5)).
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Literal

from skragent.observe import Event, log, names
from skragent.serving.http.interfaces import HttpError, HttpLimits
from skragent.serving.http.response import ResponseCache

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from skragent.observe import Counters
    from skragent.serving.http.connection import Connection
    from skragent.serving.http.interfaces import EventLoop
    from skragent.serving.peers import Peer

# The owner of the quota that all users without a rule share.
SHARED: Final = -2

Resource = Literal["connections", "in_flight", "long_polls"]

# The quantum of a round: some milliseconds of work. A response from the cache costs 1.
QUANTUM: Final = 512
# Other responses cost this much, and 1 more for each 64 bytes of the request.
UNCACHED_COST: Final = 16
_BYTES_PER_COST: Final = 64


@dataclass(frozen=True, slots=True)
class Limits(HttpLimits):
    """Limits of one socket and of each of its connections."""

    # The connections of all sockets stay below the 1024 descriptors that a process has
    # by default.
    connections: int = 768
    connections_per_uid: int = 384
    requests_in_flight: int = 640
    long_polls: int = 512
    requests_per_second_per_uid: int = 10_000

    @classmethod
    def for_connections(cls, connections: int) -> Limits:
        """Return the limits of a socket with this number of connections.

        The fractions are rounded so that one user alone reaches no limit of all users.
        """
        return cls(
            connections=connections,
            connections_per_uid=max(1, connections // 2),
            requests_in_flight=math.ceil(connections * 5 / 6),
            long_polls=math.ceil(connections * 2 / 3),
        )


class Quota:
    """The share of one user.

    The rate is counted in ticks of the listener, so that a request needs no clock.
    """

    __slots__ = (
        "closing",
        "connections",
        "in_flight",
        "left",
        "long_polls",
        "reserve",
        "responses",
    )

    def __init__(self, requests_per_tick: int) -> None:
        self.responses = ResponseCache()
        self.connections = 0
        self.closing = 0  # sockets that threads are closing
        self.in_flight = 0
        self.long_polls = 0
        self.left = 0  # in this round
        self.reserve = 0  # after this round, in this tick
        self.refill(requests_per_tick)

    @property
    def is_used(self) -> bool:
        """Return whether the user has a connection or a socket that is not closed."""
        return bool(self.connections or self.closing)

    def refill(self, requests_per_tick: int) -> None:
        """Begin a new tick."""
        self.responses.clear()
        self.left = 0
        self.reserve = requests_per_tick
        self.begin_round()

    def begin_round(self) -> None:
        """Move a quantum from the reserve to this round."""
        part = min(QUANTUM - self.left, self.reserve)
        self.left += part
        self.reserve -= part

    def charge(self, request_bytes: int) -> None:
        """Take one response from the tick, and its cost from the round."""
        self.left -= 1
        self._postpone(UNCACHED_COST - 1 + request_bytes // _BYTES_PER_COST)

    def charge_part(self, request_bytes: int) -> None:
        """Take the cost of a part of a body from the round."""
        self._postpone(request_bytes // _BYTES_PER_COST)

    def _postpone(self, count: int) -> None:
        postponed = min(count, self.left)
        self.left -= postponed
        self.reserve += postponed


class Quotas:
    """The quotas of all users with connections."""

    def __init__(self, requests_per_tick: int) -> None:
        self.requests_per_tick = requests_per_tick
        self._by_owner: dict[int, Quota] = {}

    def __len__(self) -> int:
        return len(self._by_owner)

    def of(self, owner: int) -> Quota:
        """Return the quota of a user."""
        quota = self._by_owner.get(owner)
        if quota is None:
            quota = self._by_owner[owner] = Quota(self.requests_per_tick)
        return quota

    def refill(self) -> None:
        """Begin a new tick, and drop the quotas of users without connections."""
        for owner in [o for o, q in self._by_owner.items() if not q.is_used]:
            del self._by_owner[owner]
        for quota in self._by_owner.values():
            quota.refill(self.requests_per_tick)

    def largest(self, resource: Resource) -> Quota:
        """Return the quota with the most of a resource. There is at least one quota."""
        return max(self._by_owner.values(), key=lambda quota: getattr(quota, resource))


class Caller:
    """A peer and the quota of its user."""

    __slots__ = ("identity", "peer", "quota")

    def __init__(self, peer: Peer, quota: Quota) -> None:
        self.peer = peer
        self.quota = quota
        self.identity: Hashable = peer.identity


class FairQueue:
    """Deficit round robin over the users; `loop` must be set first."""

    loop: EventLoop

    def __init__(self) -> None:
        self._deferred: list[Quota] = []
        self._next_round: list[Connection[Caller]] = []
        self._next_tick: list[Connection[Caller]] = []
        self._is_scheduled = False

    def defers(self, caller: Caller) -> bool:
        """Return whether a user with an empty round gets another round in this tick."""
        if caller.quota.reserve <= 0:
            return False
        self._deferred.append(caller.quota)
        if not self._is_scheduled:
            self._is_scheduled = True
            self.loop.call_soon(self._begin_round)
        return True

    def resume_next_round(self, connection: Connection[Caller]) -> None:
        """Resume a connection in the next round, which `defers` has scheduled."""
        self._next_round.append(connection)

    def resume_next_tick(self, connection: Connection[Caller]) -> None:
        """Resume a connection in the next tick."""
        self._next_tick.append(connection)

    def begin_tick(self) -> None:
        """Resume the connections that wait for a tick. The quotas must be refilled."""
        waiting, self._next_tick = self._next_tick, []
        for connection in waiting:
            connection.resume()

    def _begin_round(self) -> None:
        self._is_scheduled = False
        deferred, self._deferred = self._deferred, []
        for quota in deferred:
            if quota.left <= 0:
                quota.begin_round()
        waiting, self._next_round = self._next_round, []
        for connection in waiting:
            connection.resume()


class Admission(FairQueue):
    """The connection pool, the quotas and the fair queue of one socket.

    Args:
        limits: the limits.
        counters: the counters of the agent.
        name: the `socket` label of the counters.
        identifies: whether the socket identifies its callers. If not, all callers share
            one quota, and a new connection replaces the oldest.
    """

    def __init__(
        self, limits: Limits, counters: Counters, name: str, *, identifies: bool
    ) -> None:
        super().__init__()
        self.quotas = Quotas(limits.requests_per_second_per_uid)
        self.is_busy = False  # the limit of requests in flight is reached
        self.is_empty = asyncio.Event()
        self.is_empty.set()
        self._limits = limits
        self._counters = counters
        self._name = name
        self._identifies = identifies
        self._connections: set[Connection[Caller]] = set()
        self._in_flight = 0
        self._long_polls = 0
        self._closing = 0  # sockets that threads are closing
        self._has_logged = False  # in this tick
        counters.connections[name] = counters.in_flight[name] = 0

    def __bool__(self) -> bool:
        return bool(self._connections)

    def __iter__(self) -> Iterator[Connection[Caller]]:
        return iter(list(self._connections))  # callers of this close some of them

    def change_limits(self, limits: Limits) -> None:
        """Use other limits for new connections and requests."""
        self._limits = limits
        self.quotas.requests_per_tick = limits.requests_per_second_per_uid
        self.is_busy = self._in_flight >= limits.requests_in_flight

    def refill(self) -> None:
        """Begin a new tick."""
        self._has_logged = False
        self.quotas.refill()

    def check_connection(self, caller: Caller) -> HttpError | None:
        """Return why a new connection is rejected, or None. May evict another one."""
        if self._has_connection_left(caller.quota):
            return None
        self._counters.denied[names.DENIED_CONNECTIONS] += 1
        if not self._has_logged:
            self._has_logged = True
            log(
                Event.CONNECTIONS_REFUSED,
                f"a connection of uid {caller.peer.uid} was rejected: all connections"
                " that [serving] connections allows are open, or the half of them that"
                " one user may have",
                code="serve.connections",
                uid=caller.peer.uid,
                pid=caller.peer.pid,
            )
        return HttpError(
            "too many connections",
            code="serve.connections",
            status=HTTPStatus.SERVICE_UNAVAILABLE,
        )

    def check_request(self, caller: Caller, size: int) -> HttpError | None:
        """Charge for a request of `size` bytes, or return why it is rejected."""
        if caller.quota.left <= 0:
            self._counters.denied[names.DENIED_RATE] += 1
            return HttpError(
                "too many requests within a second",
                code="serve.rate",
                status=HTTPStatus.TOO_MANY_REQUESTS,
            )
        caller.quota.charge(size)
        if self.is_busy:
            self._end_longest_wait("in_flight", caller.quota, lambda c: c.is_in_flight)
        return self._busy("too many requests are in flight") if self.is_busy else None

    def check_long_poll(self, caller: Caller) -> HttpError | None:
        """Return why a long poll is rejected, or None."""
        if self._long_polls >= self._limits.long_polls:
            self._end_longest_wait(
                "long_polls", caller.quota, lambda c: c.is_long_polling
            )
        if self._long_polls >= self._limits.long_polls:
            return self._busy("too many long polls are pending")
        return None

    def add(self, connection: Connection[Caller]) -> None:
        """Count an open connection."""
        self._connections.add(connection)
        connection.caller.quota.connections += 1
        self._counters.connections[self._name] += 1
        self.is_empty.clear()

    def remove(self, connection: Connection[Caller]) -> None:
        """Count a closed connection no longer."""
        if connection not in self._connections:
            return
        self._connections.remove(connection)
        connection.caller.quota.connections -= 1
        self._counters.connections[self._name] -= 1
        if not self._connections:
            self.is_empty.set()

    def count_closing(self, quota: Quota, change: int) -> None:
        """Count sockets that threads are closing; they take up connections.

        No other user can get their places, so they are counted separately.
        """
        quota.closing += change
        self._closing += change

    def count_in_flight(self, caller: Caller, change: int) -> None:
        """Count responses that the peer has not read completely."""
        caller.quota.in_flight += change
        self._in_flight += change
        self._counters.in_flight[self._name] = self._in_flight
        self.is_busy = self._in_flight >= self._limits.requests_in_flight

    def count_long_polls(self, caller: Caller, change: int) -> None:
        """Count long polls. They are in flight as well."""
        caller.quota.long_polls += change
        self._long_polls += change
        self.count_in_flight(caller, change)

    def _has_connection_left(self, quota: Quota) -> bool:
        if quota.connections + quota.closing >= self._limits.connections_per_uid:
            return False
        if self._open < self._limits.connections:
            return True
        longest = self._longest_waiting("connections", quota, lambda _: True)
        if longest is not None:
            longest.evict()
        return self._open < self._limits.connections

    @property
    def _open(self) -> int:
        return len(self._connections) + self._closing

    def _end_longest_wait(
        self,
        resource: Resource,
        quota: Quota,
        uses: Callable[[Connection[Caller]], bool],
    ) -> None:
        longest = self._longest_waiting(resource, quota, uses)
        if longest is not None:
            longest.give_way()

    def _longest_waiting(
        self,
        resource: Resource,
        quota: Quota,
        uses: Callable[[Connection[Caller]], bool],
    ) -> Connection[Caller] | None:
        """Return the connection that has waited longest, of the user with the most.

        Return None if the new caller would have as much as that user.
        """
        largest = self.quotas.largest(resource)
        share = getattr(quota, resource) + 1
        if resource == "connections":
            share += quota.closing
        if self._identifies and getattr(largest, resource) <= share:
            return None
        candidates = (
            connection
            for connection in self._connections
            if connection.caller.quota is largest and uses(connection)
        )
        return min(candidates, key=lambda c: c.since, default=None)

    def _busy(self, message: str) -> HttpError:
        self._counters.denied[names.DENIED_BUSY] += 1
        return HttpError(
            message, code="serve.busy", status=HTTPStatus.SERVICE_UNAVAILABLE
        )
