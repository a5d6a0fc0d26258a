"""The scheduler: runs jobs when keys are due, and applies deadlines of held keys.

Two loops share the event loop. One waits until a key is due and its vault's rate limit
permits a release, and runs a job for all such keys. The other one applies the deadlines
of held keys at any time, also while a job runs.

When a key is due is decided in `due_times`, what an event means for a key in
`key_records`. This module runs the jobs; `job_results` applies their results.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from skragent.agent import cached_token, due_times, key_records
from skragent.agent.ak_renewal import AkRenewal
from skragent.agent.job_results import JobResults
from skragent.agent.jobs import failure_error
from skragent.agent.record_store import RecordStore
from skragent.agent.version_check import VersionChecks
from skragent.agent.watchdog import Heartbeats
from skragent.errors import AgentError, Disposition, ReleaserError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from skragent.agent.cached_token import CachedToken
    from skragent.agent.clock import Clock
    from skragent.agent.due_times import RecentReleases
    from skragent.agent.interfaces import Jobs, Reporter
    from skragent.agent.job_runner import Release
    from skragent.agent.key_records import KeyLifetimePolicy, KeyRecord
    from skragent.agent.releaser_process import Launch
    from skragent.job import Attestation, KeyRequest

# An administrator may set the wall clock: the agent compares it with `exp` this often.
_WALL_CLOCK_SECONDS: Final = 10.0

# One FATAL failure may be a passing fault of the TPM; two in succession end the agent.
_FATAL_JOBS_TO_END: Final = 2

NO_RECORDS: Final[Mapping[str, KeyRecord]] = MappingProxyType({})

# The loops that send heartbeats: see `watchdog`.
_JOBS: Final = "jobs"
_DEADLINES: Final = "deadlines"


@dataclass
class _Job:
    """The job that runs, and its results so far."""

    keys: dict[str, KeyRequest]  # without those that were released, and those dropped
    # Keys that were due, too, but were not in the job because of its limits.
    due: dict[str, KeyRequest] = field(default_factory=dict)
    attestation: Attestation | None = None
    released: list[str] = field(default_factory=list)
    needs_fresh_token: bool = False  # after a failure that a retry does not fix
    is_token_void: bool = False  # an administrator requested a fresh attestation


class Scheduler:
    """Keeps the configured keys fresh until it is stopped.

    Args:
        keys: the configured keys, by alias.
        jobs: runs jobs.
        reporter: receives every change.
        clock: the agent's clock.
        random: returns a number from 0 to 1.
        policies: the lifetime policy of each key.
        spread: this machine's place in its fleet, from -1 to 1.
        restored: records of keys that an earlier agent held.
    """

    def __init__(
        self,
        keys: Mapping[str, KeyRequest],
        *,
        jobs: Jobs,
        reporter: Reporter,
        clock: Clock,
        random: Callable[[], float],
        policies: Mapping[str, KeyLifetimePolicy],
        spread: float = 0.0,
        restored: Mapping[str, KeyRecord] = NO_RECORDS,
    ) -> None:
        self.heartbeats = Heartbeats(clock)
        self._plans_changed = asyncio.Event()
        self._deadlines_changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._records = RecordStore(
            keys,
            policies,
            reporter,
            clock,
            restored=restored,
            on_change=self._wake,
        )
        self._jobs = jobs
        self._reporter = reporter
        self._clock = clock
        self._launched: Launch | None = None
        self._job = _Job({})
        self._recent_releases: tuple[RecentReleases, ...] = ()
        self._token: CachedToken | None = None
        self._has_job_failed = False  # the last one, as a whole
        self._fatal_jobs = 0  # in succession
        # Then this is a confidential VM, and a FATAL failure does not end the agent.
        self._has_attested = bool(restored)
        self._ak_renewal = AkRenewal(
            jobs, reporter, clock, random, is_stopping=self._stopping.is_set
        )
        self._version_checks = VersionChecks(
            self._records,
            jobs=jobs,
            reporter=reporter,
            clock=clock,
            random=random,
            request_refresh=self._request_refresh,
        )
        self._results = JobResults(
            self._records,
            self._version_checks,
            reporter=reporter,
            clock=clock,
            random=random,
            spread=spread,
        )

    @property
    def records(self) -> Mapping[str, KeyRecord]:
        """The records of all keys, by alias."""
        return self._records.by_alias

    async def run(self, launched: Launch | None = None) -> None:
        """Run until `stop`.

        Args:
            launched: the first job, if its releaser has started already.

        Raises:
            AgentError: a FATAL failure at start, which ends the agent.
        """
        self._launched = launched
        loops = [
            asyncio.create_task(self._run_jobs()),
            asyncio.create_task(self._apply_deadlines()),
        ]
        try:
            done, _ = await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
            if self._stopping.is_set():
                # Both end by themselves. Cancelling a job would kill its releaser,
                # which may be writing the AK certificate.
                done, _ = await asyncio.wait(loops)
        finally:
            for task in loops:
                task.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
        for task in done:
            task.result()

    def stop(self) -> None:
        """End every wait. The runner ends the job."""
        self._stopping.set()
        self._wake()

    def refresh(self, aliases: Iterable[str]) -> None:
        """Release these keys as soon as possible, with a new attestation.

        Keys of the job that runs are released again after that job, because the
        administrator may have changed something after it began. Every backoff after
        a failed job ends.
        """
        self._request_refresh(aliases)
        self._results.end_job_backoff()

    def drop(self, alias: str) -> None:
        """Wipe a key until `refresh` requests it again.

        The result of the job that runs is ignored for this key.
        """
        self._job.keys.pop(alias, None)
        self._job.due.pop(alias, None)
        record = self._records.by_alias[alias]
        self._records.store(alias, key_records.drop_key(record))

    def configure(
        self,
        keys: Mapping[str, KeyRequest],
        policies: Mapping[str, KeyLifetimePolicy],
    ) -> None:
        """Apply another configuration.

        Keys that are configured as before stay held. If a name now means another key,
        the old key is wiped. If it means another version, the old version stays held
        until the new one is released. The result of the job that runs is ignored for
        keys that have changed. Every backoff after a failed job ends.
        """
        self._records.configure(keys, policies)
        self._results.end_job_backoff()

    def _request_refresh(self, aliases: Iterable[str]) -> None:
        self._token, self._job.is_token_void = None, True
        for alias in aliases:
            self._results.request_refresh(alias)

    def _wake(self) -> None:
        """Let both loops look at the records again."""
        self._plans_changed.set()
        self._deadlines_changed.set()

    async def _run_jobs(self) -> None:
        while not self._stopping.is_set():
            await self._wait_until_due()
            await self._run_job()

    async def _wait_until_due(self) -> None:
        """Wait until a key is due; renew the AK certificate and check versions."""
        while not self._stopping.is_set():
            boottime, left = self._clock.boottime(), self._seconds_until_due()
            if self._ak_renewal.may_run(left, has_job_failed=self._has_job_failed):
                self._expect_heartbeat(self._jobs.longest_seconds)
                await self._ak_renewal.run()
                continue
            if left <= 0:
                return
            until_check = self._version_checks.due_at - boottime
            if until_check <= 0:
                self._expect_heartbeat(self._jobs.longest_seconds)
                await self._check_versions()
                continue
            left = min(left, until_check)
            until_renewal = self._ak_renewal.due_at - boottime
            if until_renewal > 0:  # else it is due, and waits for a key
                left = min(left, until_renewal)
            self._plans_changed.clear()
            self._expect_heartbeat(left)
            await self._clock.wait(self._plans_changed, left)

    def _seconds_until_due(self) -> float:
        boottime = self._clock.boottime()
        limits = due_times.next_release_times(
            self._records.keys, self._recent_releases, boottime
        )
        return due_times.next_attempt(self._records.by_alias, limits) - boottime

    def _expect_heartbeat(self, seconds: float) -> None:
        self.heartbeats.expect(_JOBS, seconds)

    async def _check_versions(self) -> None:
        """Check versions until a key is due, because a vault may not respond.

        Cancelling the check kills its releaser, which does not write anything.
        """
        check = asyncio.create_task(self._version_checks.run())
        check.add_done_callback(lambda _task: self._plans_changed.set())
        try:
            while not check.done():
                self._plans_changed.clear()
                left = self._seconds_until_due()
                if left <= 0 or self._stopping.is_set():
                    return
                await self._clock.wait(self._plans_changed, left)
        finally:
            check.cancel()
            (outcome,) = await asyncio.gather(check, return_exceptions=True)
        if isinstance(outcome, BaseException):
            raise outcome

    async def _run_job(self) -> None:
        """Run one job for the keys that are due."""
        launched, self._launched = self._launched, None
        batch = self._choose_batch(launched)
        if not batch or self._stopping.is_set():
            return
        job = self._job = self._begin_job(batch)
        keys = list(job.keys.values())
        token, self._token = self._token_for(batch), None
        job.attestation = token.attestation if token else None
        self._results.begin_job()
        self._expect_heartbeat(self._jobs.longest_seconds)
        try:
            release = await self._jobs.run(
                keys, launched=launched, token=token, deliver=self._apply
            )
        except ReleaserError as error:
            self._count_releases(keys)  # the releaser may have reached the vault
            self._fail_job(error, crashed_batch=len(keys))
            return
        except AgentError as error:
            self._fail_job(error)
            return
        self._reporter.job_ended(release.result)
        self._ak_renewal.read(release.result)
        if release.result.failure is not None:  # before it reached a vault
            self._fail_job(failure_error(release.result.failure))
            return
        self._has_job_failed, self._fatal_jobs = False, 0
        self._records.end_job_backoff()
        self._count_releases(keys)
        self._apply(release)
        self._keep_token(release.token or token)

    def _choose_batch(self, launched: Launch | None) -> Sequence[str]:
        keys = self._records.keys
        if launched is not None:
            return [alias for alias in keys if alias in launched.aliases]
        boottime = self._clock.boottime()
        due = due_times.due_keys(self._records.by_alias, boottime)
        releasable = due_times.releasable_keys(
            due, keys, self._recent_releases, boottime=boottime
        )
        return due_times.choose_batch(releasable, self._records.by_alias)

    def _begin_job(self, batch: Collection[str]) -> _Job:
        records = self._records
        due = due_times.due_keys(records.by_alias, self._clock.boottime())
        return _Job(
            {alias: records.keys[alias] for alias in batch},
            {alias: records.keys[alias] for alias in due if alias not in batch},
        )

    def _token_for(self, aliases: Iterable[str]) -> CachedToken | None:
        """Return the cached token if a job for these keys may use it."""
        token = self._token
        if token is not None and cached_token.can_release(
            token,
            aliases,
            self._records.by_alias,
            boottime=self._clock.boottime(),
        ):
            return token
        return None

    def _keep_token(self, token: CachedToken | None) -> None:
        """Cache a token, unless a key of the job needs a fresh one."""
        job = self._job
        if token is None or job.is_token_void or job.needs_fresh_token:
            return
        self._token = cached_token.add_released(token, job.released)

    def _count_releases(self, keys: Iterable[KeyRequest]) -> None:
        ended_at = self._clock.boottime()
        self._recent_releases = due_times.count_releases(
            self._recent_releases, keys, ended_at=ended_at
        )

    def _fail_job(self, error: AgentError, *, crashed_batch: int = 0) -> None:
        """Apply the failure of a whole job.

        If the job failed before it reached a vault, a job for the other keys that were
        due would have failed, too. So the failure is theirs as well. Otherwise each
        batch would begin with a short backoff of its own, and the agent would repeat
        the attestation more often, the more keys it has.

        Raises:
            AgentError: the failure, if it is FATAL and ends the agent. That is only at
                start, because systemd does not restart the agent then.
        """
        if self._stopping.is_set():
            return  # the agent itself killed the releaser
        self._has_job_failed = True
        is_fatal = error.disposition is Disposition.FATAL
        self._fatal_jobs = self._fatal_jobs + 1 if is_fatal else 0
        if self._fatal_jobs >= _FATAL_JOBS_TO_END and not self._has_attested:
            raise error
        wanted = self._wanted(self._job.keys)
        if not crashed_batch:
            wanted += self._wanted(self._job.due)
        self._results.apply_job_failure(error, wanted, crashed_batch=crashed_batch)

    def _wanted(self, keys: Mapping[str, KeyRequest]) -> list[str]:
        """List the keys that were not released, dropped or reconfigured meanwhile."""
        return [
            alias for alias, key in keys.items() if self._records.keys.get(alias) == key
        ]

    def _apply(self, part: Release) -> None:
        """Apply a part of the result as soon as the releaser has written it."""
        if self._stopping.is_set():
            return
        result, job = part.result, self._job
        if result.attestation is not None:
            job.attestation = result.attestation
            self._reporter.attested(result.attestation)
            self._records.record_attestation()
        self._has_attested = self._has_attested or job.attestation is not None
        job.released += (key.alias for key in result.released)
        job.needs_fresh_token |= any(
            failure_error(entry.failure).disposition is not Disposition.RETRY
            for entry in result.failed
        )
        self._results.apply(part, job.attestation, self._wanted(job.keys))
        for key in result.released:  # a later crash of the job does not concern it
            job.keys.pop(key.alias, None)

    async def _apply_deadlines(self) -> None:
        while not self._stopping.is_set():
            left = min(self._records.apply_time(), _WALL_CLOCK_SECONDS)
            self._reporter.repeat_notifications()
            self._deadlines_changed.clear()
            self.heartbeats.expect(_DEADLINES, left)
            await self._clock.wait(self._deadlines_changed, left)
