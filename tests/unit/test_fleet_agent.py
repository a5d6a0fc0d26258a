"""The simulated agent (bench/fleet_agent.py) is as good as the supervisor's twin."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
from bench.fleet_agent import Agent
from support.agent import BOOTTIME, TOKEN_LIFE_SECONDS, failure, released_key
from support.agent_supervision import passing, supervise

from skragent.agent.jobs import failure_error
from skragent.errors import SkrAgentError
from skragent.job import Failure, ReleasedKey

THROTTLED = failure("transport.throttled", "retry")
LATER = failure("transport.throttled", "retry", retry_after=30)
DOWN = failure("transport.server", "retry")
DENIED = failure("release.denied.policy", "denied")

# The failures of each job by alias; who is not named is released.
Script = list[dict[str, Failure]]
Asked = list[tuple[float, tuple[str, ...]]]

SCRIPTS: dict[str, Script] = {
    "one of two is throttled, often": [{"disk": THROTTLED}] * 12,
    "both are, and part": [
        *[{"disk": THROTTLED, "signing": THROTTLED}] * 3,
        *[{"disk": THROTTLED}] * 3,
    ],
    "an outage, then a line": [
        *[{"disk": DOWN, "signing": DOWN}] * 40,
        *[{"disk": THROTTLED, "signing": THROTTLED}] * 5,
    ],
    "a refresh that is throttled": [{}, *[{"disk": THROTTLED}] * 9],
    "the vault says when": [{"disk": LATER}] * 3,
    "a denial among others": [{"disk": THROTTLED}, *[{"disk": DENIED}] * 3],
}
SECONDS = TOKEN_LIFE_SECONDS


def chances() -> Callable[[], float]:
    """The golden ratio's multiples: as different as chance, and always the same."""
    numbers: Iterator[int] = itertools.count(1)
    return lambda: next(numbers) * 0.6180339887 % 1


def of_the_supervisor(script: Script) -> Asked:
    failures: dict[str, Failure] = {}
    jobs = iter(script)

    def while_running() -> None:
        failures.clear()
        failures.update(next(jobs, {}))

    world = supervise(
        passing(SECONDS),
        "disk",
        "signing",
        chance=chances(),
        failures=failures,
        while_running=while_running,
    )
    return world.jobs.asked


def of_the_simulation(script: Script) -> Asked:
    jobs = iter(script)
    failures: dict[str, Failure] = {}
    asked: Asked = []
    aliases: list[str] = []

    def ask(alias: str, moment: float) -> ReleasedKey | SkrAgentError:
        del moment
        aliases.append(alias)
        refusal = failures.get(alias)
        return released_key(alias) if refusal is None else failure_error(refusal)

    agent = Agent(("disk", "signing"), ask=ask, chance=chances())
    moment = BOOTTIME
    while moment <= BOOTTIME + SECONDS:
        failures = next(jobs, {})
        aliases.clear()
        agent.attempt(moment)
        asked.append((moment, tuple(aliases)))
        moment = agent.due_at
    return asked


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_it_asks_at_the_moments_of_the_supervisor(script: Script) -> None:
    asked, real = of_the_simulation(script), of_the_supervisor(script)
    assert len(real) > len(script)
    assert [keys for _, keys in asked] == [keys for _, keys in real]
    assert [at for at, _ in asked] == pytest.approx([at for at, _ in real], abs=1e-6)
