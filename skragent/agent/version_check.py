"""Looks for new versions: by a job of its own, which attests and releases nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skragent.agent import due_times, key_records
from skragent.errors import AgentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from skragent.agent.clock import Clock
    from skragent.agent.interfaces import Holder, Jobs
    from skragent.agent.key_records import Lives


class Looking:
    """Looks when that is due.

    Args:
        lives: of all keys.
        jobs: runs the job.
        holder: is told who may not look.
        clock: the one clock.
        chance: a number from 0 to 1, another one each time.
        refresh: has these keys released.
    """

    def __init__(
        self,
        lives: Lives,
        *,
        jobs: Jobs,
        holder: Holder,
        clock: Clock,
        chance: Callable[[], float],
        refresh: Callable[[Iterable[str]], None],
    ) -> None:
        self._lives = lives
        self._jobs = jobs
        self._holder = holder
        self._clock = clock
        self._chance = chance
        self._refresh = refresh

    @property
    def due_at(self) -> float:
        """When `run` is due, by boot time."""
        return due_times.next_check(self._lives.of)

    def plan(self, alias: str) -> None:
        """Plan the next look for a key's new version, where its terms want one."""
        life = self._lives.of[alias]
        if life.terms.check_seconds is None:
            return
        chance = 2 * self._chance() - 1
        seconds = due_times.check_after_seconds(life.terms.check_seconds, chance)
        check_at = self._clock.boottime() + seconds
        self._lives.put(alias, key_records.to_be_checked(life, check_at))

    async def run(self) -> None:
        """Look; what cannot be found out now is asked later."""
        lives, boottime = self._lives, self._clock.boottime()
        aliases = due_times.keys_to_check(lives.of, boottime)
        asked = {alias: lives.keys[alias] for alias in aliases}
        for alias in asked:
            self.plan(alias)
        try:
            result = await self._jobs.check(list(asked.values()))
        except AgentError:
            return  # nothing is lost: the next refresh will tell of any trouble
        for alias, version in result.versions.items():
            life = lives.of.get(alias)
            if life is None or lives.keys[alias] != asked[alias]:
                continue
            if not version:
                lives.put(alias, key_records.cannot_be_checked(life))
                self._holder.cannot_check(alias)
            elif (
                life.failures.throttles or self._clock.boottime() < life.held_off_until
            ):
                # The vault throttles us or said `Retry-After`: a version check must not
                # bring the key's release forward.
                continue
            elif life.is_held and version != life.version:
                self._refresh([alias])
