"""What came of a job, for each key: held, or why not, and when it is due again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from skragent.agent import due_times, key_records
from skragent.agent.jobs import failure_error
from skragent.agent.key_records import Admission
from skragent.errors import ReleaseDeniedError, SecretMemoryError

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

    from skragent.agent.clock import Clock
    from skragent.agent.interfaces import Holder
    from skragent.agent.job_runner import Release
    from skragent.agent.key_records import KeyRecord, Lives
    from skragent.agent.version_check import Looking
    from skragent.errors import AgentError
    from skragent.job import Attestation, ReleasedKey

# However short a token's life and however long the job: never in a tight circle.
_MIN_PAUSE_SECONDS: Final = 1.0


class Settling:
    """Gives each key of a job what came of it.

    Args:
        lives: of all keys.
        looking: plans looks for new versions.
        holder: is told of everything.
        clock: the one clock.
        chance: a number from 0 to 1, another one each time.
        token_fraction: of a token's life, after which it is renewed.
        spread: this machine's place in its fleet, from -1 to 1.
    """

    def __init__(
        self,
        lives: Lives,
        looking: Looking,
        *,
        holder: Holder,
        clock: Clock,
        chance: Callable[[], float],
        token_fraction: float,
        spread: float,
    ) -> None:
        self.token_fraction = token_fraction
        self.asked_again: set[str] = set()  # since the job began: due at once
        self._throw = 0.0  # of chance, for the job
        self._lives = lives
        self._looking = looking
        self._holder = holder
        self._clock = clock
        self._chance = chance
        self._spread = spread

    def begin_job(self) -> None:
        """Begin a job. One throw of chance for all its keys.

        Keys that are released together stay together: one attestation serves them
        again.
        """
        self.asked_again.clear()
        self._throw = self._chance()

    def settle(
        self,
        release: Release,
        attestation: Attestation | None,
        wanted: Container[str],
    ) -> None:
        """Settle a part of the job's outcome.

        Args:
            release: the part.
            attestation: that the keys were released under.
            wanted: the keys that were not dropped or changed meanwhile.
        """
        # A machine that was suspended wakes in any order: what is too old by now must
        # not live on beside its successor.
        self._lives.age()
        chance = self._throw
        for key in release.result.released:
            if key.alias not in wanted:
                continue
            admission = key_records.admit(key, self._clock.now())
            if admission is Admission.DISABLED:
                error = ReleaseDeniedError(
                    f"version {key.version} is disabled",
                    code=admission.value,
                    hint="Enable it in the vault, or configure another version.",
                )
                self._settle_failed(key.alias, error, chance)
            elif attestation is None:
                raise TypeError("a judged result has keys only with an attestation")
            else:
                self._settle_released(key, admission, release, attestation, chance)
            self.end_attempts([key.alias])
        for entry in release.result.failed:
            if entry.alias in wanted:
                self._settle_failed(entry.alias, failure_error(entry.failure), chance)
                self.end_attempts([entry.alias])

    def end_attempts(self, aliases: Iterable[str]) -> None:
        """Tell that attempts ended; not of keys that were ordered meanwhile.

        Their order is carried out by the next attempt.
        """
        for alias in aliases:
            if alias not in self.asked_again:
                self._holder.attempt_ended(alias)

    def _settle_released(
        self,
        key: ReleasedKey,
        admission: Admission,
        release: Release,
        attestation: Attestation,
        chance: float,
    ) -> None:
        boottime = self._clock.boottime()
        seconds = due_times.token_life_seconds(
            attestation.issued_at, attestation.expires_at
        )
        terms, fraction = self._lives.of[key.alias].terms, self.token_fraction
        fresh = due_times.fresh_seconds(seconds, terms.refresh_seconds, fraction)
        jitter = due_times.jitter(self._spread, 2 * chance - 1)
        after = due_times.refresh_after_seconds(fresh, jitter, fraction)
        due_at = release.began_at + after
        if admission is Admission.HELD:
            life = key_records.released(
                self._lives.of[key.alias],
                key,
                began_at=release.began_at,
                fresh_seconds=fresh,
            )
            try:
                self._holder.hold(
                    key,
                    release.arena,
                    request=self._lives.keys[key.alias],
                    life=life,
                    began_at=release.began_at,
                )
            except SecretMemoryError as error:
                self._settle_failed(key.alias, error, chance)
                return
        else:
            life = key_records.not_admitted(self._lives.of[key.alias], key, admission)
            self._holder.not_admitted(key, admission)
            if not life.is_held:
                lasting = due_times.lasting_window_seconds(life.failures.slow)
                due_at = boottime + chance * lasting
        due_at = max(due_at, boottime + _MIN_PAUSE_SECONDS)
        self._plan(key.alias, life, due_at)
        if life.is_held:
            self._looking.plan(key.alias)

    def _settle_failed(self, alias: str, error: AgentError, chance: float) -> None:
        boottime = self._clock.boottime()
        life = key_records.failed(self._lives.of[alias], error, boottime)
        seconds = due_times.wait_seconds(
            error,
            life.failures,
            jitter=chance,
            confirms_in=key_records.seconds_until_confirmable(life, error, boottime),
        )
        self._holder.key_failed(
            alias,
            error,
            seconds,
            wiped_in=key_records.seconds_until_wiped(life, boottime, seconds),
        )
        due_at = boottime + seconds
        self._plan(alias, life, due_at, is_held_off=due_times.is_asked_to_wait(error))

    def _plan(
        self, alias: str, life: KeyRecord, due_at: float, *, is_held_off: bool = False
    ) -> None:
        if alias in self.asked_again:
            due_at, is_held_off = self._clock.boottime(), False
        life = key_records.planned(life, due_at, is_held_off=is_held_off)
        self._lives.put(alias, life)
