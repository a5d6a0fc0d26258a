"""Run a fleet: process events in the order of their time.

The bound is the time that vaults need at their limit if agents send their requests one
after another, as soon as they are due. For a fleet that is due at once it is
VMs x keys / (vaults x rate).
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.fleet_agent import Agent
from bench.fleet_vault import NO_OUTAGE, Limit, Outage, Vault
from support.agent import released_key

from skragent.agent.due_times import machine_spread
from skragent.agent.key_records import KeyLifetimePolicy, KeyRecord
from skragent.config import KeyConfig
from skragent.errors import AgentError
from skragent.job import KeyRequest, ReleasedKey

# From the beginning of a job to its request to the vault: evidence and attestation.
JOB_SECONDS = 1.0
# After an outage an agent may wait this long, which is not caused by the vault.
SOON_SECONDS = 60.0
# A scenario ends after this time.
MAX_RATIO = 12.0
MAX_EXTRA_SECONDS = 3600.0


@dataclass(frozen=True)
class Fleet:
    """The size of a fleet."""

    vms: int
    keys: int = 1  # per VM
    vaults: int = 1
    seed: int = 1


@dataclass(frozen=True)
class Outcome:
    """The result of a scenario; times are in seconds."""

    until: dict[int, float | None]  # until this percentage of the keys is held
    lasted: float  # until all are held, or until the end of the scenario
    bound: float
    vaults: list[Vault]
    was_stale: int  # keys that were stale before their refresh
    attestations_per_vm: float

    @property
    def ratio_to_bound(self) -> float:
        """The time divided by the bound; a lower limit if the scenario did not end."""
        return self.lasted / self.bound

    @property
    def refused_per_release(self) -> float:
        """The number of 429 responses per released key."""
        released = sum(vault.released for vault in self.vaults)
        return sum(vault.refused for vault in self.vaults) / max(released, 1)


class World:
    """A fleet and its vaults. Scenarios follow each other.

    Args:
        fleet: its size.
        limit: of each vault.
    """

    def __init__(self, fleet: Fleet, limit: Limit) -> None:
        self._limit = limit
        self._random = random.Random(fleet.seed)
        self._key = released_key()
        self._vaults = {f"vault{n}": Vault(limit) for n in range(fleet.vaults)}
        self._missing: set[KeyRequest] = set()  # keys that are not held yet
        self._done: list[float] = []  # the times of releases, in order
        self._was_stale = 0
        self._owners: dict[KeyRequest, Agent] = {}
        self.agents = [self._agent(fleet, number) for number in range(fleet.vms)]
        self.following = [0.0] * fleet.vms  # the time of each agent's next action

    def _agent(self, fleet: Fleet, number: int) -> Agent:
        keys = [
            KeyRequest(
                alias=f"key{key}",
                vault=f"vault{(number + key) % fleet.vaults}",
                name=f"{number}",
            )
            for key in range(fleet.keys)
        ]
        agent = Agent(
            {key.alias: key for key in keys},
            vaults=self,
            random=self._random.random,
            policy=KeyLifetimePolicy(check_seconds=KeyConfig().version_check_seconds),
            spread=machine_spread(f"{fleet.seed}/{number}"),
            job_seconds=JOB_SECONDS,
        )
        self._owners.update(dict.fromkeys(keys, agent))
        return agent

    def release(self, key: KeyRequest, moment: float) -> ReleasedKey | AgentError:
        """Request a key of its vault."""
        refusal = self._vaults[key.vault].ask(moment)
        if refusal is not None:
            return refusal
        if key in self._missing:
            self._missing.remove(key)
            self._done.append(moment)
            record = self._owners[key].records[key.alias]
            self._was_stale += moment > record.stale_at
        return self._key

    def latest(self, key: KeyRequest, moment: float) -> str | None:
        """Return the version, or None if the vault is down. It has no rate limit."""
        return None if self._vaults[key.vault].is_down(moment) else self._key.version

    def cold_boot(self, within_seconds: float) -> Outcome:
        """Boot all VMs within a time, without held keys.

        Times count from the beginning.
        """
        self.following = [self._random.uniform(0, within_seconds) for _ in self.agents]
        keys = len(self._owners) // len(self.agents)
        dues = [start for start in self.following for _ in range(keys)]
        return self._run(dues, begins=0.0)

    def rotation(self) -> Outcome:
        """Create a new version of each key, which agents notice by version checks.

        Times count from the rotation.
        """
        begins = max(self._done)
        self._key = released_key(version=f"{begins:.0f}")
        dues = [
            min(record.check_at, record.retry.retry_at) for record in self._records()
        ]
        return self._run(dues, begins=begins)

    def refresh(self, outage_seconds: float = 0.0) -> Outcome:
        """Wait until each key was refreshed.

        Times count from the first refresh, or from the end of the outage.

        Args:
            outage_seconds: the duration of an outage of all vaults, at the end of the
                refreshes. Keys that are due then wait for the rate limit only.
        """
        dues = [record.retry.retry_at for record in self._records()]
        if outage_seconds <= 0:
            return self._run(dues, begins=min(dues))
        outage = Outage(max(dues) - outage_seconds, max(dues))
        return self._run(dues, begins=outage.ends, outage=outage)

    def _records(self) -> list[KeyRecord]:
        return [record for agent in self.agents for record in agent.records.values()]

    def save_state(self) -> Callable[[], None]:
        """Save the present state; return a function that restores it."""
        key, done, following = self._key, self._done, list(self.following)
        agents = [
            (agent, dict(agent.records), agent.recent, agent.token)
            for agent in self.agents
        ]

        def restore() -> None:
            self._key, self._done, self.following = key, done, list(following)
            for agent, records, recent, token in agents:
                agent.records, agent.recent, agent.token = dict(records), recent, token

        return restore

    def _run(
        self, dues: Sequence[float], *, begins: float, outage: Outage = NO_OUTAGE
    ) -> Outcome:
        self._vaults = {name: Vault(self._limit, outage) for name in self._vaults}
        self._missing, self._done, self._was_stale = set(self._owners), [], 0
        for agent in self.agents:
            agent.attestations = 0
        bound = self._bound(dues, begins=begins, outage=outage)
        time_limit = MAX_RATIO * bound + MAX_EXTRA_SECONDS
        events = [(moment, number) for number, moment in enumerate(self.following)]
        heapq.heapify(events)
        while self._missing:
            moment, number = events[0]
            if moment - begins > time_limit:
                break
            heapq.heapreplace(events, (self.agents[number].act(moment), number))
        for moment, number in events:
            self.following[number] = moment
        until = {}
        for percent in (50, 99, 100):
            enough = math.ceil(len(self._owners) * percent / 100)
            is_there = len(self._done) >= enough
            at = max(0.0, self._done[enough - 1] - begins) if is_there else None
            until[percent] = at
        vaults, lasted = list(self._vaults.values()), until[100]
        lasted = time_limit if lasted is None else lasted
        attested = sum(agent.attestations for agent in self.agents) / len(self.agents)
        return Outcome(until, lasted, bound, vaults, self._was_stale, attested)

    def _bound(self, dues: Sequence[float], *, begins: float, outage: Outage) -> float:
        """Return the time for all keys at the limit; shorter times are not measured."""
        each = 1 / (self._limit.rate * len(self._vaults))
        served = min(dues)
        for due in sorted(dues):
            is_down = outage.begins <= due < outage.ends
            served = max(served, outage.ends if is_down else due) + each
        return max(served - begins, SOON_SECONDS)
