"""Version checks: when the agent asks a vault for the latest version of a key.

A version check is a job of its own, which attests and releases nothing.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Final

from skragent.agent.due_times import REFRESH_JITTER
from skragent.errors import AgentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from skragent.agent.clock import Clock
    from skragent.agent.interfaces import Jobs, Reporter
    from skragent.agent.key_records import KeyRecord
    from skragent.agent.record_store import RecordStore

# Checks that are due within this time are one job.
CHECK_TOGETHER_SECONDS: Final = 30.0


def plan_check(record: KeyRecord, boottime: float, *, jitter: float) -> KeyRecord:
    """Plan the next version check of a key, if its policy wants checks.

    Args:
        record: of the key.
        boottime: now.
        jitter: random, from 0 to 1.
    """
    if record.policy.check_seconds is None:
        return record
    seconds = record.policy.check_seconds * (1 + REFRESH_JITTER * (2 * jitter - 1))
    check_at = boottime + seconds if record.may_check else math.inf
    return dataclasses.replace(record, check_at=check_at)


def disable_checks(record: KeyRecord) -> KeyRecord:
    """Plan no version checks: the identity does not have the permission."""
    return dataclasses.replace(record, may_check=False, check_at=math.inf)


def next_check(records: Mapping[str, KeyRecord]) -> float:
    """Return when the next version check is due."""
    return min((_check_at(record) for record in records.values()), default=math.inf)


def keys_to_check(records: Mapping[str, KeyRecord], boottime: float) -> tuple[str, ...]:
    """List the keys of a version check that begins now."""
    return tuple(
        alias
        for alias, record in records.items()
        if _check_at(record) <= boottime + CHECK_TOGETHER_SECONDS
    )


def needs_refresh(record: KeyRecord, version: str, boottime: float) -> bool:
    """Return whether the latest version must be released now.

    A version check must not bypass the backoff after a 429, or a Retry-After.
    """
    retry = record.retry
    if retry.throttles or boottime < retry.retry_after_until:
        return False
    return record.is_held and version != record.version


def _check_at(record: KeyRecord) -> float:
    """Return when a check is due: no job begins during the backoff of a job."""
    return max(record.check_at, record.retry.job_backoff_until)


class VersionChecks:
    """Runs the version checks that are due.

    Args:
        records: of all keys.
        jobs: runs the job.
        reporter: is told which keys cannot be checked.
        clock: the agent's clock.
        random: returns a number from 0 to 1.
        request_refresh: refreshes these keys.
    """

    def __init__(
        self,
        records: RecordStore,
        *,
        jobs: Jobs,
        reporter: Reporter,
        clock: Clock,
        random: Callable[[], float],
        request_refresh: Callable[[Iterable[str]], None],
    ) -> None:
        self._records = records
        self._jobs = jobs
        self._reporter = reporter
        self._clock = clock
        self._random = random
        self._request_refresh = request_refresh

    @property
    def due_at(self) -> float:
        """The boot time at which `run` is due."""
        return next_check(self._records.by_alias)

    def plan(self, alias: str) -> None:
        """Plan the next version check of a key, if its policy wants checks."""
        record, boottime = self._records.by_alias[alias], self._clock.boottime()
        if record.policy.check_seconds is not None:
            jitter = self._random()
            self._records.store(alias, plan_check(record, boottime, jitter=jitter))

    async def run(self) -> None:
        """Check versions, and refresh the keys that have a newer one."""
        records = self._records
        aliases = keys_to_check(records.by_alias, self._clock.boottime())
        requested = {alias: records.keys[alias] for alias in aliases}
        for alias in requested:
            self.plan(alias)
        try:
            result = await self._jobs.check(list(requested.values()))
        except AgentError:
            return  # the next refresh reports a lasting fault
        for alias, version in result.versions.items():
            record = records.by_alias.get(alias)
            if record is None or records.keys[alias] != requested[alias]:
                continue
            if not version:
                records.store(alias, disable_checks(record))
                self._reporter.cannot_check(alias)
            elif needs_refresh(record, version, self._clock.boottime()):
                self._request_refresh([alias])
