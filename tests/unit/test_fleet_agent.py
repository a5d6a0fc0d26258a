"""The simulated agent (bench/fleet_agent.py) asks when the supervisor would."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
from bench.fleet_agent import Agent
from support.agent import (
    BOOTTIME,
    TOKEN_LIFE_SECONDS,
    failure,
    make_config,
    released_key,
)
from support.agent_supervision import passing, supervise

from skragent.agent.jobs import failure_error, key_requests
from skragent.agent.key_records import Terms
from skragent.errors import AgentError
from skragent.job import Failure, KeyRequest, ReleasedKey

THROTTLED = failure("transport.throttled", "retry")
LATER = failure("transport.throttled", "retry", retry_after=30)
DOWN = failure("transport.server", "retry")
DENIED = failure("release.denied.policy", "denied")

# The failures of each job by alias; who is not named is released.
Script = list[dict[str, Failure]]
Asked = list[tuple[float, tuple[str, ...]]]

ALIASES = ("disk", "signing", *(f"key{number}" for number in range(10)))
SCRIPTS: dict[str, Script] = {
    "one is throttled, often": [{"disk": THROTTLED}] * 12,
    "some are, then fewer": [
        *[{"disk": THROTTLED, "signing": THROTTLED}] * 3,
        *[{"disk": THROTTLED}] * 3,
    ],
    "an outage, then a line": [
        *[dict.fromkeys(ALIASES, DOWN)] * 40,
        *[dict.fromkeys(ALIASES, THROTTLED)] * 5,
    ],
    "a refresh that is throttled": [{}, {}, *[{"disk": THROTTLED}] * 9],
    "the vault says when": [{"disk": LATER}] * 3,
    "a denial among others": [{"disk": THROTTLED}, *[{"disk": DENIED}] * 3],
}
SECONDS = TOKEN_LIFE_SECONDS
LOOKING = Terms(check_seconds=3600)
NEWER = {"disk": "another version, at each look"}


def chances() -> Callable[[], float]:
    """The golden ratio's multiples: as different as chance, and always the same."""
    numbers: Iterator[int] = itertools.count(1)
    return lambda: next(numbers) * 0.6180339887 % 1


def of_the_supervisor(script: Script, terms: Terms) -> tuple[Asked, int]:
    failures: dict[str, Failure] = {}
    jobs = iter(script)

    def while_running() -> None:
        failures.clear()
        failures.update(next(jobs, {}))

    world = supervise(
        passing(SECONDS),
        *ALIASES,
        chance=chances(),
        terms=terms,
        failures=failures,
        latest=NEWER,
        while_running=while_running,
    )
    return world.jobs.asked, sum(world.jobs.attested)


class Vaults:
    """Answers as the script says, one entry for each job: each has its own moment."""

    def __init__(self, script: Script) -> None:
        self.asked: Asked = []
        self._jobs = iter(script)
        self._failures: dict[str, Failure] = {}

    def release(self, key: KeyRequest, moment: float) -> ReleasedKey | AgentError:
        if not self.asked or self.asked[-1][0] != moment:
            self.asked.append((moment, ()))
            self._failures = next(self._jobs, {})
        self.asked[-1] = (moment, (*self.asked[-1][1], key.alias))
        refusal = self._failures.get(key.alias)
        return released_key(key.alias) if refusal is None else failure_error(refusal)

    def latest(self, key: KeyRequest, moment: float) -> str | None:
        del moment
        return NEWER.get(key.alias)


def of_the_simulation(script: Script, terms: Terms) -> tuple[Asked, int]:
    vaults = Vaults(script)
    keys = key_requests(make_config(*ALIASES))
    agent = Agent(keys, vaults=vaults, chance=chances(), terms=terms)
    moment = BOOTTIME
    while moment <= BOOTTIME + SECONDS:
        moment = agent.act(moment)
    return vaults.asked, agent.attested


def assert_they_agree(script: Script, terms: Terms) -> None:
    asked, attested = of_the_simulation(script, terms)
    real, really_attested = of_the_supervisor(script, terms)
    assert attested == really_attested
    assert len(real) > len(script)
    assert [keys for _, keys in asked] == [keys for _, keys in real]
    assert [at for at, _ in asked] == pytest.approx([at for at, _ in real], abs=1e-6)


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_it_asks_at_the_moments_of_the_supervisor(script: Script) -> None:
    assert_they_agree(script, LOOKING)


def test_it_does_so_where_nobody_looks_for_new_versions() -> None:
    assert_they_agree([{}, {}, *[{"disk": THROTTLED}] * 9], Terms())
