"""An agent of the simulated fleet: the agent's decisions without its event loop.

The agent's own pure modules decide when a key is requested (`due_times`, `key_records`,
`version_check`, `cached_token`). This module does what the scheduler does with the
answers, for jobs that reach the vault. Ten thousand agents with two asyncio tasks each
would take hours. tests/unit/test_fleet_agent.py shows that the simulated agent requests
keys at the same times as the scheduler.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from skragent.agent import cached_token, due_times, key_records, version_check
from skragent.agent.cached_token import CachedToken
from skragent.agent.due_times import RecentReleases
from skragent.agent.key_records import KeyLifetimePolicy, KeyRecord
from skragent.errors import AgentError, Disposition
from skragent.job import Attestation, KeyRequest, ReleasedKey

TOKEN_LIFE_SECONDS = 8 * 3600.0

_ATTESTATION = Attestation(
    issuer="https://example.attest.azure.net",
    issued_at=0.0,
    expires_at=TOKEN_LIFE_SECONDS,
    token_sha256="",
    compliance_status="",
    vm_id="",
    chip_generation="",
    report_version=2,
    verified=(),
)


class Vaults(Protocol):
    """The vaults that an agent sends requests to, at a given time."""

    def release(self, key: KeyRequest, moment: float) -> ReleasedKey | AgentError:
        """Release a key, or return the error."""
        ...

    def latest(self, key: KeyRequest, moment: float) -> str | None:
        """Return a key's latest version; None if the vault does not respond."""
        ...


class Agent:
    """The agent of one VM.

    Args:
        keys: the configured keys, by alias.
        vaults: release the keys.
        random: returns a number from 0 to 1.
        policy: of each key.
        spread: the machine's place in its fleet, from -1 to 1.
        job_seconds: from the beginning of a job until its request to the vault.
    """

    def __init__(
        self,
        keys: Mapping[str, KeyRequest],
        *,
        vaults: Vaults,
        random: Callable[[], float],
        policy: KeyLifetimePolicy,
        spread: float = 0.0,
        job_seconds: float = 0.0,
    ) -> None:
        self.records = {alias: KeyRecord(policy=policy) for alias in keys}
        self.recent: tuple[RecentReleases, ...] = ()
        self.token: CachedToken | None = None
        self.attestations = 0
        self._keys = keys
        self._vaults = vaults
        self._random = random
        self._spread = spread
        self._job_seconds = job_seconds

    def act(self, boottime: float) -> float:
        """Run the job that is due now; return the time of the next one."""
        is_check_due = version_check.next_check(self.records) <= boottime
        if not is_check_due or self._next_attempt(boottime) <= boottime:
            boottime = self._release(boottime)
        else:
            self._check_versions(boottime)
        next_check = version_check.next_check(self.records)
        return max(boottime, min(self._next_attempt(boottime), next_check))

    def _next_attempt(self, boottime: float) -> float:
        limits = due_times.next_release_times(self._keys, self.recent, boottime)
        return due_times.next_attempt(self.records, limits)

    def _release(self, began_at: float) -> float:
        """Run one job for the keys that are due; return the time of its end."""
        due = due_times.due_keys(self.records, began_at)
        releasable = due_times.releasable_keys(
            due, self._keys, self.recent, boottime=began_at
        )
        batch = due_times.choose_batch(releasable, self.records)
        keys = [self._keys[alias] for alias in batch]
        token: CachedToken | None = self._token_for(keys, began_at)
        self.token = None
        ended_at = began_at + self._job_seconds
        self.recent = due_times.count_releases(self.recent, keys, ended_at=ended_at)
        jitter = self._random()  # of all keys of the job
        released: list[str] = []
        for key in keys:
            answer = self._vaults.release(key, ended_at)
            record = self.records[key.alias]
            record = key_records.apply_time(record, now=0, boottime=ended_at)
            if isinstance(answer, AgentError):
                record = _apply_failure(record, answer, jitter, ended_at)
                self.records[key.alias] = record
                if answer.disposition is not Disposition.RETRY:
                    token = None
                continue
            released.append(key.alias)
            record = self._apply_release(record, answer, jitter, began_at)
            self.records[key.alias] = record
            self._plan_check(key.alias, ended_at)
        if token is not None:
            self.token = cached_token.add_released(token, released)
        return ended_at

    def _token_for(self, keys: Sequence[KeyRequest], boottime: float) -> CachedToken:
        token = self.token
        if token is not None and cached_token.can_release(
            token,
            [key.alias for key in keys],
            self.records,
            boottime=boottime,
        ):
            return token
        self.attestations += 1
        return CachedToken(_ATTESTATION, boottime, "", memoryview(b""))

    def _apply_release(
        self, record: KeyRecord, key: ReleasedKey, jitter: float, began_at: float
    ) -> KeyRecord:
        fresh = due_times.fresh_seconds(
            due_times.token_life_seconds(0, TOKEN_LIFE_SECONDS),
            record.policy.refresh_seconds,
        )
        after = due_times.refresh_after_seconds(
            fresh, spread=self._spread, jitter=jitter
        )
        record = key_records.record_release(
            record, key, began_at=began_at, fresh_seconds=fresh
        )
        return _plan(record, began_at + after)

    def _check_versions(self, boottime: float) -> None:
        aliases = version_check.keys_to_check(self.records, boottime)
        for alias in aliases:
            self._plan_check(alias, boottime)
        for alias in aliases:
            version = self._vaults.latest(self._keys[alias], boottime)
            record = self.records[alias]
            if version is not None and version_check.needs_refresh(
                record, version, boottime
            ):
                self.token = None
                self.records[alias] = key_records.request_refresh(record, boottime)

    def _plan_check(self, alias: str, boottime: float) -> None:
        record = self.records[alias]
        if record.policy.check_seconds is not None:
            self.records[alias] = version_check.plan_check(
                record, boottime, jitter=self._random()
            )


def _apply_failure(
    record: KeyRecord, error: AgentError, jitter: float, boottime: float
) -> KeyRecord:
    record = key_records.record_failure(record, error, boottime)
    seconds = due_times.backoff_seconds(
        error,
        record.retry,
        jitter=jitter,
        confirms_in=key_records.seconds_until_confirmable(record, error, boottime),
    )
    is_retry_after = due_times.has_retry_after(error)
    return _plan(record, boottime + seconds, is_retry_after=is_retry_after)


def _plan(
    record: KeyRecord, due_at: float, *, is_retry_after: bool = False
) -> KeyRecord:
    retry = due_times.plan_attempt(record.retry, due_at, is_retry_after=is_retry_after)
    return key_records.plan(record, retry)
