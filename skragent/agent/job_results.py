"""Apply the results of a job to its keys: held or failed, and when each is due next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from skragent.agent import due_times, key_records
from skragent.agent.jobs import failure_error
from skragent.agent.key_records import Validity
from skragent.errors import ReleaseDeniedError, SecretMemoryError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from skragent.agent.clock import Clock
    from skragent.agent.interfaces import Reporter
    from skragent.agent.job_runner import Release
    from skragent.agent.key_records import KeyRecord
    from skragent.agent.record_store import RecordStore
    from skragent.agent.version_check import VersionChecks
    from skragent.errors import AgentError
    from skragent.job import Attestation, ReleasedKey

# Prevents a tight loop if the token's lifetime is shorter than the job.
_MIN_WAIT_SECONDS: Final = 1.0


class JobResults:
    """Applies the results of one job after the other.

    Args:
        records: of all keys.
        version_checks: plans version checks.
        reporter: receives every result.
        clock: the agent's clock.
        random: returns a number from 0 to 1.
        spread: this machine's place in its fleet, from -1 to 1.
    """

    def __init__(
        self,
        records: RecordStore,
        version_checks: VersionChecks,
        *,
        reporter: Reporter,
        clock: Clock,
        random: Callable[[], float],
        spread: float,
    ) -> None:
        self._refreshed: set[str] = set()  # by an administrator, since the job began
        self._is_backoff_ended = False  # by a refresh or reload, since the job began
        self._jitter = 0.0  # of all keys of the job
        self._records = records
        self._version_checks = version_checks
        self._reporter = reporter
        self._clock = clock
        self._random = random
        self._spread = spread

    def begin_job(self) -> None:
        """Begin a job.

        Its keys share the jitter, so that they are due together: then one attestation
        serves them all again.
        """
        self._refreshed.clear()
        self._is_backoff_ended = False
        self._jitter = self._random()

    def request_refresh(self, alias: str) -> None:
        """Make a key due now, even if the job that is running releases it."""
        record = self._records.by_alias[alias]
        boottime = self._clock.boottime()
        self._records.store(alias, key_records.request_refresh(record, boottime))
        self._refreshed.add(alias)

    def end_job_backoff(self) -> None:
        """Begin the next job as soon as a key is due, even if this job fails."""
        self._is_backoff_ended = True
        self._records.end_job_backoff()

    def apply(
        self,
        release: Release,
        attestation: Attestation | None,
        wanted: Collection[str],
    ) -> None:
        """Apply a part of the result.

        Args:
            release: the part.
            attestation: of the job.
            wanted: the keys that were not dropped or reconfigured during the job.
        """
        # After the machine was suspended a deadline may have passed unnoticed: then a
        # version that is too old must not be held beside its successor.
        self._records.apply_time()
        for key in release.result.released:
            if key.alias in wanted:
                self._apply_release(key, release, attestation)
                self.count_attempts([key.alias])
        for entry in release.result.failed:
            if entry.alias in wanted:
                self._apply_failure(entry.alias, failure_error(entry.failure))
                self.count_attempts([entry.alias])

    def apply_job_failure(
        self, error: AgentError, wanted: Collection[str], *, crashed_batch: int = 0
    ) -> None:
        """Apply the failure of a whole job: a failed attempt of each of these keys.

        Args:
            error: the failure.
            wanted: the keys that were due, or only those of the job if it crashed;
                without those that were dropped or reconfigured during the job.
            crashed_batch: the number of keys, if the job crashed or timed out.
        """
        boottime = self._clock.boottime()
        for alias in wanted:
            record = self._records.by_alias[alias]
            if crashed_batch:
                record = key_records.record_crash(
                    record, error, batch_size=crashed_batch, boottime=boottime
                )
                # Perhaps the key's own fault: the wait is for this key only.
                due_at = boottime + self._job_backoff(record, error)
                self._records.store(alias, self._plan(alias, record, due_at))
            else:
                record = key_records.record_failure(
                    record, error, boottime, is_whole_job=True
                )
                until = boottime + self._job_backoff(record, error)
                retry = due_times.back_off_job(record.retry, until)
                self._records.store(alias, key_records.plan(record, retry))
        self._back_off_others(error, wanted, has_crashed=bool(crashed_batch))
        records = self._records.by_alias
        following = {
            alias: key_records.next_attempt(records[alias], boottime)
            for alias in wanted
        }
        self._reporter.job_failed(following, error)
        self.count_attempts(wanted)

    def count_attempts(self, aliases: Iterable[str]) -> None:
        """Report that attempts have ended.

        An attempt that began before a refresh was requested does not count: the next
        one is for that request.
        """
        for alias in aliases:
            if alias not in self._refreshed:
                self._reporter.attempt_ended(alias)

    def _back_off_others(
        self, error: AgentError, wanted: Collection[str], *, has_crashed: bool
    ) -> None:
        """Delay the other keys after a job that failed as a whole.

        The cause concerns them, too, because the job failed before it reached a vault.
        So the agent does not try them one after the other. The wait is that of the
        key with the fewest failures. A crash may be the fault of one key: then only
        keys that have failures wait.
        """
        records, boottime = self._records.by_alias, self._clock.boottime()
        others = [
            alias
            for alias, record in records.items()
            if alias not in wanted and (record.retry.failures or not has_crashed)
        ]
        known = [*others, *wanted]
        due = [alias for alias in known if records[alias].retry.due_at <= boottime]
        if not others:
            return
        least = min(
            (records[alias] for alias in (known if has_crashed else due or known)),
            key=lambda record: record.retry.failures,
        )
        until = boottime + self._job_backoff(least, error)
        for alias in others:
            retry = due_times.back_off_job(records[alias].retry, until)
            self._records.store(alias, key_records.plan(records[alias], retry))

    def _job_backoff(self, record: KeyRecord, error: AgentError) -> float:
        if self._is_backoff_ended:
            return 0.0
        boottime = self._clock.boottime()
        return due_times.backoff_seconds(
            error,
            record.retry,
            jitter=self._jitter,
            is_vault=False,
            confirms_in=key_records.seconds_until_confirmable(record, error, boottime),
        )

    def _apply_release(
        self, key: ReleasedKey, release: Release, attestation: Attestation | None
    ) -> None:
        validity = key_records.check_validity(key, self._clock.now())
        if validity is Validity.DISABLED:
            error = ReleaseDeniedError(
                f"version {key.version} is disabled",
                code=validity.value,
                hint="Enable it in the vault, or configure another version.",
            )
            self._apply_failure(key.alias, error)
        elif attestation is None:
            raise TypeError("a checked result has keys only with an attestation")
        else:
            self._hold(key, validity, release, attestation)

    def _hold(
        self,
        key: ReleasedKey,
        validity: Validity,
        release: Release,
        attestation: Attestation,
    ) -> None:
        record, boottime = self._records.by_alias[key.alias], self._clock.boottime()
        fresh = due_times.fresh_seconds(
            due_times.token_life_seconds(attestation.issued_at, attestation.expires_at),
            record.policy.refresh_seconds,
        )
        due_at = release.began_at + due_times.refresh_after_seconds(
            fresh,
            spread=self._spread,
            jitter=self._jitter,
        )
        if validity is Validity.VALID:
            record = key_records.record_release(
                record, key, began_at=release.began_at, fresh_seconds=fresh
            )
            try:
                self._reporter.hold(
                    key,
                    release.arena,
                    request=self._records.keys[key.alias],
                    record=record,
                    began_at=release.began_at,
                )
            except SecretMemoryError as error:
                self._apply_failure(key.alias, error)
                return
        else:
            record = key_records.record_invalid_version(record, key, validity)
            self._reporter.not_valid(key, validity)
            if not record.is_held:
                window = due_times.lasting_window_seconds(record.retry.slow_failures)
                due_at = boottime + self._jitter * window
        due_at = max(due_at, boottime + _MIN_WAIT_SECONDS)
        self._records.store(key.alias, self._plan(key.alias, record, due_at))
        if record.is_held:
            self._version_checks.plan(key.alias)

    def _apply_failure(self, alias: str, error: AgentError) -> None:
        boottime = self._clock.boottime()
        record = self._records.by_alias[alias]
        record = key_records.record_failure(record, error, boottime)
        seconds = due_times.backoff_seconds(
            error,
            record.retry,
            jitter=self._jitter,
            confirms_in=key_records.seconds_until_confirmable(record, error, boottime),
        )
        record = self._plan(
            alias,
            record,
            boottime + seconds,
            is_retry_after=due_times.has_retry_after(error),
        )
        following = key_records.next_attempt(record, boottime)
        self._reporter.key_failed(alias, error, following)
        self._records.store(alias, record)

    def _plan(
        self,
        alias: str,
        record: KeyRecord,
        due_at: float,
        *,
        is_retry_after: bool = False,
    ) -> KeyRecord:
        """Plan the next attempt: at a time, or now if an administrator requested it."""
        if alias in self._refreshed:
            due_at, is_retry_after = self._clock.boottime(), False
        retry = due_times.plan_attempt(
            record.retry, due_at, is_retry_after=is_retry_after
        )
        return key_records.plan(record, retry)
