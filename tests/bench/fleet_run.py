"""Let a fleet live: events in the order of their time, nothing else.

The bound is what vaults at their limit would need if everybody were asked in turn, as
soon as due: for a fleet that is due at once, VMs x keys / (vaults x rate).
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass

from bench.fleet_agent import Agent
from bench.fleet_vault import NO_OUTAGE, Limit, Outage, Vault
from support.agent import released_key

from skragent.agent.lifecycle import KeyLife
from skragent.agent.schedule import spread_of
from skragent.errors import SkrAgentError
from skragent.job import ReleasedKey

# From a job's beginning until the vault is asked: evidence and attestation.
JOB_SECONDS = 1.0
# After an outage an agent may wait so long until it asks again: not the vault's doing.
SOON_SECONDS = 60.0
# Nobody waits for a fleet that is not ready by then.
MAX_RATIO = 25.0
MAX_EXTRA_SECONDS = 3600.0


@dataclass(frozen=True)
class Fleet:
    """How many there are of everything."""

    vms: int
    keys: int = 1  # of each VM
    vaults: int = 1
    seed: int = 1


@dataclass(frozen=True)
class Outcome:
    """What came of a scenario; its times are seconds."""

    until: dict[int, float | None]  # that many percent of the keys are there
    bound: float
    vaults: list[Vault]
    was_stale: int  # keys whose refresh came after their token's life

    @property
    def ratio_to_bound(self) -> float:
        """How much longer it took than it must; infinite where it did not end."""
        last = self.until[100]
        return float("inf") if last is None else last / self.bound

    @property
    def refused_per_release(self) -> float:
        """How often vaults said 429 for each key that they released."""
        released = sum(vault.released for vault in self.vaults)
        return sum(vault.refused for vault in self.vaults) / max(released, 1)


class World:
    """A fleet and its vaults. Scenarios follow each other.

    Args:
        fleet: its size.
        limit: of each vault.
    """

    def __init__(self, fleet: Fleet, limit: Limit) -> None:
        self._fleet = fleet
        self._limit = limit
        self._random = random.Random(fleet.seed)
        self._vaults: list[Vault] = []
        self._key = released_key()
        self._done: list[float] = []  # when each key came, in order
        self._was_stale = 0
        self.agents = [self._agent(number) for number in range(fleet.vms)]

    def _agent(self, number: int) -> Agent:
        places = {
            f"key{key}": (number + key) % self._fleet.vaults
            for key in range(self._fleet.keys)
        }

        def ask(alias: str, moment: float) -> ReleasedKey | SkrAgentError:
            refusal = self._vaults[places[alias]].ask(moment)
            if refusal is not None:
                return refusal
            self._note(self.agents[number].lives[alias], moment)
            return self._key

        return Agent(
            places,
            ask=ask,
            chance=self._random.random,
            spread=spread_of(f"{self._fleet.seed}/{number}"),
            job_seconds=JOB_SECONDS,
        )

    def _note(self, before: KeyLife, moment: float) -> None:
        if before.version != self._key.version:
            self._done.append(moment)
            self._was_stale += moment > before.stale_at

    def cold_boot(self, within_seconds: float) -> Outcome:
        """Boot all VMs within so many seconds; they hold nothing.

        Times are counted from the first second on.
        """
        starts = [self._random.uniform(0, within_seconds) for _ in self.agents]
        return self._live(starts, begins=0.0, outage=NO_OUTAGE)

    def refresh(self, outage_seconds: float = 0.0) -> Outcome:
        """Give each key a new version, and wait until its refresh has brought it.

        Times are counted from the first refresh.

        Args:
            outage_seconds: of all vaults, at the end of the refreshes: what is due then
                has but the limit to wait for. Times are counted from the outage's end.
        """
        starts = [agent.due_at for agent in self.agents]
        if outage_seconds <= 0:
            return self._live(starts, begins=min(starts), outage=NO_OUTAGE)
        outage = Outage(max(starts) - outage_seconds, max(starts))
        return self._live(starts, begins=outage.ends, outage=outage)

    def _live(
        self, starts: Sequence[float], *, begins: float, outage: Outage
    ) -> Outcome:
        self._vaults = [Vault(self._limit, outage) for _ in range(self._fleet.vaults)]
        self._key = released_key(version=f"{begins:.0f}")
        self._done, self._was_stale = [], 0
        everything = self._fleet.vms * self._fleet.keys
        bound = self._bound(starts, begins=begins, outage=outage)
        events = [(start, number) for number, start in enumerate(starts)]
        heapq.heapify(events)
        while len(self._done) < everything:
            moment, number = events[0]
            if moment - begins > MAX_RATIO * bound + MAX_EXTRA_SECONDS:
                break
            self.agents[number].attempt(moment)
            heapq.heapreplace(events, (self.agents[number].due_at, number))
        until = {
            percent: max(0.0, self._done[everything * percent // 100 - 1] - begins)
            if len(self._done) >= everything * percent // 100
            else None
            for percent in (50, 99, 100)
        }
        return Outcome(until, bound, self._vaults, self._was_stale)

    def _bound(
        self, starts: Sequence[float], *, begins: float, outage: Outage
    ) -> float:
        """Serve everybody in turn at the limit; what comes sooner is not measured."""
        rate = self._limit.rate * self._fleet.vaults
        served = min(starts)
        for start in sorted(starts):
            is_down = outage.begins <= start < outage.ends
            due = outage.ends if is_down else start
            served = max(served, due) + self._fleet.keys / rate
        return max(served - begins, SOON_SECONDS)
