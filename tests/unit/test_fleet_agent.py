"""The simulated agent (bench/fleet_agent.py) requests keys when the scheduler does."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bench.fleet_agent import Agent
from support.agent import (
    BOOTTIME,
    TOKEN_LIFE_SECONDS,
    failure,
    make_config,
    released_key,
)
from support.agent_scheduler import passing, run_scheduler

from skragent.agent.jobs import failure_error, key_requests
from skragent.agent.key_records import KeyLifetimePolicy
from skragent.errors import AgentError
from skragent.job import Failure, KeyRequest, ReleasedKey

THROTTLED = failure("transport.throttled", "retry")
LATER = failure("transport.throttled", "retry", retry_after=30)
DOWN = failure("transport.server", "retry")
DENIED = failure("release.denied.policy", "denied")

# The failures of each job by alias; the other keys are released.
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
WITH_CHECKS = KeyLifetimePolicy(check_seconds=3600)
NEWER = {"disk": "another version, at each look"}


def jitters() -> Callable[[], float]:
    """The golden ratio's multiples: they are spread like random numbers."""
    numbers: Iterator[int] = itertools.count(1)
    return lambda: next(numbers) * 0.6180339887 % 1


def of_the_scheduler(script: Script, policy: KeyLifetimePolicy) -> tuple[Asked, int]:
    failures: dict[str, Failure] = {}
    jobs = iter(script)

    def while_running() -> None:
        failures.clear()
        failures.update(next(jobs, {}))

    world = run_scheduler(
        passing(SECONDS),
        *ALIASES,
        random=jitters(),
        policy=policy,
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


def of_the_simulation(script: Script, policy: KeyLifetimePolicy) -> tuple[Asked, int]:
    vaults = Vaults(script)
    keys = key_requests(make_config(*ALIASES))
    agent = Agent(keys, vaults=vaults, random=jitters(), policy=policy)
    moment = BOOTTIME
    while moment <= BOOTTIME + SECONDS:
        moment = agent.act(moment)
    return vaults.asked, agent.attestations


def test_the_simulated_agent_loads_no_event_loop() -> None:
    code = "import sys, bench.fleet_agent; print('asyncio' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.stdout == "False\n"


def assert_they_agree(script: Script, policy: KeyLifetimePolicy) -> None:
    asked, attested = of_the_simulation(script, policy)
    real, really_attested = of_the_scheduler(script, policy)
    assert attested == really_attested
    assert len(real) > len(script)
    assert [keys for _, keys in asked] == [keys for _, keys in real]
    assert [at for at, _ in asked] == pytest.approx([at for at, _ in real], abs=1e-6)


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_it_requests_keys_at_the_same_times_as_the_scheduler(script: Script) -> None:
    assert_they_agree(script, WITH_CHECKS)


def test_it_does_so_without_version_checks() -> None:
    assert_they_agree([{}, {}, *[{"disk": THROTTLED}] * 9], KeyLifetimePolicy())
