"""An agent of the simulation: the product's decisions without its event loop.

When it asks is decided by skragent.agent's own schedule, backoff and lifecycle; here is
only what the supervisor does with them, for jobs that reach the vault. Two tasks on an
event loop for each of ten thousand agents, one of which looks at the clock every ten
seconds, would take hours. That this asks at the same moments as the supervisor does is
tested: tests/unit/test_fleet_agent.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from skragent.agent import backoff, lifecycle, schedule
from skragent.agent.lifecycle import KeyLife
from skragent.errors import SkrAgentError
from skragent.job import ReleasedKey

TOKEN_LIFE_SECONDS = 8 * 3600.0


class Agent:
    """One VM's agent.

    Args:
        aliases: its keys.
        ask: a key's vault, at a moment: what is released, or why not.
        chance: a number from 0 to 1, another one each time.
        spread: the machine's place in its fleet, from -1 to 1.
        job_seconds: from the beginning of a job until the vault is asked.
    """

    def __init__(
        self,
        aliases: Iterable[str],
        *,
        ask: Callable[[str, float], ReleasedKey | SkrAgentError],
        chance: Callable[[], float],
        spread: float = 0.0,
        job_seconds: float = 0.0,
    ) -> None:
        self.lives = {alias: KeyLife() for alias in aliases}
        self.ask = ask
        self._chance = chance
        self._spread = spread
        self._job_seconds = job_seconds

    @property
    def due_at(self) -> float:
        """When its next job begins."""
        return schedule.next_attempt(self.lives)

    def attempt(self, boottime: float) -> None:
        """Run one job for the keys that are due now."""
        chance = self._chance()  # one throw for all
        ended_at = boottime + self._job_seconds
        for alias in schedule.due_keys(self.lives, boottime):
            answer = self.ask(alias, ended_at)
            life = lifecycle.aged(self.lives[alias], now=0, boottime=ended_at)
            if isinstance(answer, SkrAgentError):
                self.lives[alias] = _after_failure(life, answer, chance, ended_at)
            else:
                self.lives[alias] = self._after_release(life, answer, chance, boottime)

    def _after_release(
        self, life: KeyLife, key: ReleasedKey, chance: float, began_at: float
    ) -> KeyLife:
        token = schedule.token_life_seconds(0, TOKEN_LIFE_SECONDS)
        fraction = schedule.REFRESH_FRACTION
        fresh = schedule.fresh_seconds(token, life.terms.refresh_seconds, fraction)
        jitter = schedule.jitter(self._spread, 2 * chance - 1)
        after = schedule.refresh_after_seconds(fresh, jitter, fraction)
        life = lifecycle.released(life, key, began_at=began_at, fresh_seconds=fresh)
        return lifecycle.planned(life, began_at + after)


def _after_failure(
    life: KeyLife, error: SkrAgentError, chance: float, boottime: float
) -> KeyLife:
    life = lifecycle.failed(
        life, error.disposition, is_throttled=backoff.is_throttled(error)
    )
    seconds = backoff.wait_seconds(
        error,
        failures=life.failures,
        denials=life.denials,
        throttles=life.throttles,
        jitter=chance,
    )
    return lifecycle.planned(life, boottime + seconds)
