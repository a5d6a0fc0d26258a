"""The agent's own scheduler, keyring and API, without processes and sockets."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from support.reference_model import ReferenceModel
from support.serving import ReceivedResponse, everybody_in, get, split_responses
from support.simulated_clock import SimulatedClock
from support.simulated_cloud import SimulatedCloud

from skragent.agent.key_records import next_attempt
from skragent.agent.preserved_keys import PreservedKeys
from skragent.agent.reporter import Reporter
from skragent.agent.scheduler import Scheduler
from skragent.keyring import Keyring
from skragent.observe import Counters
from skragent.serving.api import KeyApi
from skragent.serving.http.long_poll import LongPoll
from skragent.serving.http.request import parse_head
from skragent.serving.peers import Peer

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from skragent.agent.key_records import KeyLifetimePolicy, KeyRecord
    from skragent.job import KeyRequest
    from skragent.serving.http.response import Response

CALLER = Peer(uid=os.getuid(), gid=1, pid=1)

# The agent's random numbers, in this order and repeated.
_NUMBERS = (0.5, 0.05, 1.0, 0.3, 0.75)

_T = TypeVar("_T")


class Systemd:
    """The part of systemd that stores descriptors while no agent runs."""

    is_wanted = True

    def __init__(self) -> None:
        self._stored: dict[str, int] = {}
        self._names = itertools.count()

    def status(self, line: str) -> None:
        assert line

    def store_key(self, fd: int) -> str:
        name = f"key-{next(self._names)}"
        self._stored[name] = os.dup(fd)
        return name

    def remove_fd(self, name: str) -> bool:
        os.close(self._stored.pop(name))
        return True

    def pass_descriptors(self) -> list[tuple[str, int]]:
        """Pass copies of all stored descriptors to a new agent."""
        return [(name, os.dup(fd)) for name, fd in self._stored.items()]

    def close(self) -> None:
        for name in list(self._stored):
            self.remove_fd(name)


@dataclass(eq=False)
class PendingRequest:
    """A request and its connection."""

    alias: str
    version: str | None
    deadline: float
    long_poll: LongPoll | None = None
    response: ReceivedResponse | None = None

    def deliver(self, response: Response) -> None:
        (self.response,) = split_responses(b"".join(response.parts))
        if self.long_poll is not None:
            self.long_poll.cancel()

    def fail(self, error: Exception) -> None:
        raise AssertionError("the request failed unexpectedly") from error


class SimulatedAgent:
    """An agent with its vaults and the reference model.

    The event loop runs only in the methods of this class.
    """

    def __init__(
        self, keys: Mapping[str, KeyRequest], policies: Mapping[str, KeyLifetimePolicy]
    ) -> None:
        self.loop = asyncio.new_event_loop()
        self.clock = SimulatedClock()
        self.cloud = SimulatedCloud(self.clock)
        self.model = ReferenceModel(self.clock)
        self.model.due_keys = self._due_keys
        self.cloud.listener = self.model
        self.systemd = Systemd()
        self.pending: list[PendingRequest] = []
        self._draws = 0
        self.model.configure(keys, policies)
        self._start(keys, policies)

    def restart(
        self, keys: Mapping[str, KeyRequest], policies: Mapping[str, KeyLifetimePolicy]
    ) -> None:
        """Kill the agent, and start another agent with the descriptors from systemd."""
        self.task.cancel()
        self.run(self._gather_task())
        self.pending.clear()  # their connections are broken
        self.model.restart()
        self.cloud.releases.clear()  # a new agent does not know these
        self._start(keys, policies)

    def _start(
        self, keys: Mapping[str, KeyRequest], policies: Mapping[str, KeyLifetimePolicy]
    ) -> None:
        self.keyring = Keyring(keys)
        counters = Counters(tuple(keys))
        preserved = PreservedKeys(self.systemd)  # type: ignore[arg-type]
        self.keyring.on_parting(preserved.forget)
        restored = preserved.restore(
            self.systemd.pass_descriptors(), self.keyring, keys, policies, self.clock
        )
        self.cloud.has_attested = bool(restored)  # as this agent knows
        self.api = KeyApi(
            self.keyring,
            everybody_in(self.keyring),
            counters,
            now=self.clock.now,
            due_at=self._due_at,
        )
        reporter = Reporter(
            *(self.keyring, counters, self.clock, self.systemd, preserved)  # type: ignore[arg-type]
        )
        self.scheduler = self.run(
            self._make_scheduler(keys, policies, reporter, restored)
        )
        self.task = self.loop.create_task(self.scheduler.run())
        self.advance(0)

    def _due_at(self, alias: str) -> float | None:
        record = self.scheduler.records[alias]
        left = next_attempt(record, self.clock.boottime()).seconds
        return self.clock.now() + left if left < math.inf else None

    def _due_keys(self) -> list[KeyRequest]:
        boottime = self.clock.boottime()
        return [
            self.model.keys[alias]
            for alias, record in self.scheduler.records.items()
            if record.retry.retry_at <= boottime
        ]

    async def _gather_task(self) -> None:
        await asyncio.gather(self.task, return_exceptions=True)

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        return self.loop.run_until_complete(coroutine)

    async def _make_scheduler(
        self,
        keys: Mapping[str, KeyRequest],
        policies: Mapping[str, KeyLifetimePolicy],
        reporter: Reporter,
        restored: Mapping[str, KeyRecord],
    ) -> Scheduler:
        return Scheduler(
            keys,
            jobs=self.cloud,
            reporter=reporter,
            clock=self.clock,
            random=self._random,
            policies=policies,
            restored=restored,
        )

    def _random(self) -> float:
        self._draws += 1
        return _NUMBERS[self._draws % len(_NUMBERS)]

    def configure(
        self, keys: Mapping[str, KeyRequest], policies: Mapping[str, KeyLifetimePolicy]
    ) -> None:
        """Reload, with the steps of the daemon in the same order."""
        self.keyring.remove(self.model.keys.keys() - keys.keys())
        self.model.configure(keys, policies)
        self.scheduler.configure(keys, policies)
        self.keyring.add(keys)
        self.api.change_access(everybody_in(self.keyring))
        self.advance(0)

    def advance(self, seconds: float) -> None:
        """Let time pass; each long poll gets a response at its deadline."""
        end = self.clock.boot + seconds
        while True:
            self._forget_finished()
            first = min(
                (request.deadline for request in self.pending), default=math.inf
            )
            moment = min(end, first)
            self.run(self.clock.advance(max(0.0, moment - self.clock.boot)))
            for request in self.pending:
                if request.deadline <= self.clock.boot and request.long_poll:
                    request.long_poll.finish()
                    assert request.response, "no response at the end of the wait"
            if moment >= end:
                break
        self._forget_finished()
        if self.task.done():
            self.task.result()
            raise AssertionError("the scheduler ended")

    def suspend(self, seconds: float) -> None:
        """Suspend the machine: both clocks advance before any timer fires."""
        self.clock.boot += seconds
        self.clock.wall += seconds
        self.advance(10.0)

    def request(self, alias: str, *, version: str | None, wait: int) -> PendingRequest:
        query = [f"wait={wait}"] if wait else []
        query += [f"version={version}"] if version else []
        path = f"/v1/keys/{alias}" + (f"?{'&'.join(query)}" if query else "")
        request = PendingRequest(alias, version, self.clock.boot + wait)
        response = self.api.handle(parse_head(get(path)), CALLER)
        if isinstance(response, LongPoll):
            request.long_poll = response
            response.start(request, 0)
            self.pending.append(request)
        else:
            request.deliver(response)
        return request

    def _forget_finished(self) -> None:
        self.pending = [r for r in self.pending if r.response is None]

    def close(self) -> None:
        self.scheduler.stop()
        self.run(self._end())
        self.loop.close()
        self.systemd.close()

    async def _end(self) -> None:
        """End the running job. Check that `stop` ends every other wait."""
        await self.clock.settle()
        if self.cloud.is_running:
            self.task.cancel()
        else:
            assert self.task.done(), "`stop` did not end a wait"
        await asyncio.gather(self.task, return_exceptions=True)
