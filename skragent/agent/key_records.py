"""What the agent knows about each configured key, and how that changes. Pure.

    waiting -> current -> stale -> (current | denied | expired | dropped)

A key is held while it is current or stale, and wiped in every other state. Only these
events end a held key:

- a confirmed denial by an authority (`denial_confirmation`), unless the key's policy
  says `on_denial = "keep"`;
- the held version's own `exp`;
- an administrator: drop, removal by a reload, stop of the agent;
- `max_stale_seconds`, counted from the time at which the key becomes stale.

Every other failure, with any disposition, is a fault: the key stays held.

Deadlines are on CLOCK_BOOTTIME. Only the key's own `exp` and `nbf`, which the vault
states in wall time, are compared with wall time.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from skragent.agent import due_times
from skragent.agent.denial_confirmation import (
    is_confirmed,
    remove_denials,
    seconds_to_confirm,
    seconds_to_earliest_confirmation,
)
from skragent.agent.due_times import RetryState
from skragent.agent.jobs import is_same_key
from skragent.config import KeyConfig
from skragent.denials import Authority
from skragent.keyring import KeyState

if TYPE_CHECKING:
    from skragent.config import Config
    from skragent.errors import AgentError
    from skragent.job import KeyRequest, ReleasedKey
    from skragent.keyring import PreservedRecord


class Validity(enum.Enum):
    """Whether a released key may be held, by its own attributes."""

    VALID = "valid"
    NOT_YET = "release.not_yet_valid"
    EXPIRED = "release.expired"
    DISABLED = "release.denied.disabled"


@dataclass(frozen=True, slots=True)
class KeyLifetimePolicy:
    """What the configuration says about a key's lifetime."""

    max_stale_seconds: float = KeyConfig().max_stale_seconds
    is_kept_when_denied: bool = False
    refresh_seconds: float | None = None  # None: as often as tokens are refreshed
    check_seconds: float | None = None  # between version checks; None: no checks
    overlap_seconds: float = 0.0  # for which a version is held beside its successor


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What the agent knows about one key."""

    policy: KeyLifetimePolicy = KeyLifetimePolicy()
    state: KeyState = KeyState.WAITING
    retry: RetryState = field(default_factory=RetryState)
    stale_at: float = math.inf
    drop_at: float = math.inf
    expires_at: float = math.inf  # wall time: the vault's `exp`
    version: str = ""  # the held one
    check_at: float = math.inf  # the next version check
    may_check: bool = True  # whether the identity has the permission
    # The end of the previous version, by boot time and by its own `exp`.
    overlap_until: float = -math.inf
    previous_expires_at: float = math.inf
    # The last release brought a version that is valid between these two (wall time)
    # and was not valid then. The key is requested again when the wall clock, which an
    # administrator may set, shows a time between them.
    valid_from: float = math.inf
    valid_until: float = math.inf

    @property
    def is_held(self) -> bool:
        """Whether there is a key to serve."""
        return self.state in (KeyState.CURRENT, KeyState.STALE)

    @property
    def has_previous(self) -> bool:
        """Whether the previous version is held, too."""
        return self.is_held and self.overlap_until > -math.inf


class NextAttempt(NamedTuple):
    """The next attempt for a key."""

    seconds: float  # until then
    # Until a repeated denial can wipe the held key; infinite: that cannot happen.
    wiped_in: float = math.inf


def lifetime_policies(config: Config) -> dict[str, KeyLifetimePolicy]:
    """Return the configured policy of each key."""
    return {
        alias: KeyLifetimePolicy(
            max_stale_seconds=key.max_stale_seconds,
            is_kept_when_denied=key.on_denial == "keep",
            refresh_seconds=key.refresh_seconds or None,
            overlap_seconds=key.overlap_seconds,
            check_seconds=None if key.version else key.version_check_seconds or None,
        )
        for alias, key in config.keys.items()
    }


def check_validity(key: ReleasedKey, now: float) -> Validity:
    """Compare a released key's own attributes with the wall clock.

    The vault releases keys outside of `nbf` and `exp`, so the agent enforces both.
    """
    if not key.enabled:
        return Validity.DISABLED
    if key.expires is not None and key.expires <= now:
        return Validity.EXPIRED
    if key.not_before is not None and key.not_before > now:
        return Validity.NOT_YET
    return Validity.VALID


def record_release(
    before: KeyRecord, key: ReleasedKey, *, began_at: float, fresh_seconds: float
) -> KeyRecord:
    """Record a valid key that was released.

    Args:
        before: the record.
        key: the key.
        began_at: the beginning of the job; only a cached token is older.
        fresh_seconds: from then until the key is stale.
    """
    policy, stale_at = before.policy, began_at + fresh_seconds
    record = dataclasses.replace(
        before,
        state=KeyState.CURRENT,
        retry=due_times.clear_failures(before.retry),
        valid_from=math.inf,
        stale_at=stale_at,
        drop_at=stale_at + policy.max_stale_seconds,
        expires_at=_expiry(key),
        version=key.version,
    )
    if not before.is_held or before.version == key.version:
        return record
    if policy.overlap_seconds <= 0:
        return dataclasses.replace(record, overlap_until=-math.inf)
    return dataclasses.replace(
        record,
        overlap_until=began_at + policy.overlap_seconds,
        previous_expires_at=before.expires_at,
    )


def restore_record(
    policy: KeyLifetimePolicy,
    preserved: PreservedRecord,
    previous: PreservedRecord | None,
) -> KeyRecord:
    """Build the record of a key that an earlier agent held. The key is due at once.

    Args:
        policy: from the present configuration.
        preserved: of the held version.
        previous: of the previous version, if systemd kept that, too.
    """
    record = KeyRecord(
        policy=policy,
        state=KeyState.CURRENT,
        stale_at=preserved.stale_at,
        drop_at=preserved.stale_at + policy.max_stale_seconds,
        expires_at=_expiry(preserved.key),
        version=preserved.key.version,
    )
    if previous is None or preserved.overlap_until is None:
        return record
    return dataclasses.replace(
        record,
        overlap_until=preserved.overlap_until,
        previous_expires_at=_expiry(previous.key),
    )


def record_invalid_version(
    record: KeyRecord, key: ReleasedKey, validity: Validity
) -> KeyRecord:
    """Record the release of a version that is not valid yet, or no longer.

    The version never replaces another held version. The held version itself ends at
    its own `exp`. A disabled version is a denial: see `record_failure`. If no version
    is held, the next attempt comes after a long backoff.
    """
    is_other = record.is_held and key.version != record.version
    if validity is Validity.EXPIRED and not is_other:
        record = _end_key(record, KeyState.EXPIRED)
    count = 0 if record.is_held else record.retry.failures + 1
    retry = due_times.clear_failures(record.retry)
    return dataclasses.replace(
        record,
        retry=dataclasses.replace(retry, failures=count, slow_failures=count),
        valid_from=-math.inf if key.not_before is None else key.not_before,
        valid_until=_expiry(key),
    )


def record_failure(
    record: KeyRecord,
    error: AgentError,
    boottime: float,
    *,
    is_whole_job: bool = False,
) -> KeyRecord:
    """Count a failure, and end the key if that confirms a denial.

    Args:
        record: the record.
        error: the failure.
        boottime: now.
        is_whole_job: the job failed before it requested the key: this does not show
            that the key crashes no jobs.
    """
    retry = due_times.count_failure(record.retry, error, boottime)
    if not is_whole_job:
        retry = dataclasses.replace(retry, batch_limit=RetryState().batch_limit)
    record = dataclasses.replace(record, retry=retry)
    is_kept = record.is_held and record.policy.is_kept_when_denied
    if is_confirmed(retry.denials, error.code, boottime) and not is_kept:
        return _end_key(record, KeyState.DENIED)
    return record


def record_crash(
    record: KeyRecord, error: AgentError, *, batch_size: int, boottime: float
) -> KeyRecord:
    """Count a crash or timeout of a job, which this key may have caused.

    The next job of the key has half as many keys.
    """
    retry = due_times.count_failure(record.retry, error, boottime)
    retry = dataclasses.replace(retry, batch_limit=max(1, batch_size // 2))
    return dataclasses.replace(record, retry=retry)


def record_attestation(record: KeyRecord) -> KeyRecord:
    """Record that the attestation provider accepted the VM's evidence."""
    before = record.retry.denials
    denials = remove_denials(before, Authority.PROVIDER)
    if denials is before:
        return record
    return plan(record, dataclasses.replace(record.retry, denials=denials))


def seconds_until_confirmable(
    record: KeyRecord, error: AgentError, boottime: float
) -> float:
    """Return the seconds until a repetition ends the held key; infinite if never."""
    if not record.is_held or record.policy.is_kept_when_denied:
        return math.inf
    return seconds_to_confirm(record.retry.denials, error.code, boottime)


def seconds_until_wiped(record: KeyRecord, boottime: float, retry_in: float) -> float:
    """Return the seconds until a repeated denial can wipe the key; infinite if never.

    Args:
        record: after a failure.
        boottime: now.
        retry_in: the seconds until the next attempt.
    """
    if not record.is_held or record.policy.is_kept_when_denied:
        return math.inf
    return seconds_to_earliest_confirmation(record.retry.denials, boottime, retry_in)


def next_attempt(record: KeyRecord, boottime: float) -> NextAttempt:
    """Return the time until the next attempt, and what it can cause.

    The time is infinite for a dropped key, and 0 for a key that is due.
    """
    seconds = max(0.0, record.retry.retry_at - boottime)
    return NextAttempt(seconds, seconds_until_wiped(record, boottime, seconds))


def drop_key(record: KeyRecord) -> KeyRecord:
    """End a key that an administrator drops, until `request_refresh`."""
    return plan(_end_key(record, KeyState.DROPPED), RetryState(due_at=math.inf))


def request_refresh(record: KeyRecord, boottime: float) -> KeyRecord:
    """Make a key due now. A dropped key waits for its release again."""
    if record.state is KeyState.DROPPED:
        record = dataclasses.replace(record, state=KeyState.WAITING)
    return plan(record, due_times.request_now(record.retry, boottime))


def plan(record: KeyRecord, retry: RetryState) -> KeyRecord:
    """Return the record with another retry state."""
    return record if retry is record.retry else dataclasses.replace(record, retry=retry)


def reconfigure(
    record: KeyRecord,
    before: KeyRequest,
    after: KeyRequest,
    *,
    policy: KeyLifetimePolicy,
    boottime: float,
) -> KeyRecord:
    """Apply another configuration to a key's record.

    If the name now means another key, the record begins anew. Another version of the
    same key is its successor. A denial of one version or identity does not confirm a
    denial of another.
    """
    if not is_same_key(before, after):
        return KeyRecord(policy=policy)
    if policy != record.policy:
        record = _change_policy(record, policy, boottime)
    if before != after and record.state is not KeyState.DROPPED:
        record = plan(record, due_times.clear_failures(record.retry))
        return request_refresh(record, boottime)
    return record


def _change_policy(
    record: KeyRecord, policy: KeyLifetimePolicy, boottime: float
) -> KeyRecord:
    record = dataclasses.replace(
        record,
        policy=policy,
        drop_at=record.stale_at + policy.max_stale_seconds,
        check_at=math.inf,
        may_check=True,
    )
    if not record.is_held:
        return record
    refresh_at = boottime + (policy.refresh_seconds or math.inf)
    return dataclasses.replace(
        record,
        retry=due_times.bring_forward(record.retry, refresh_at),
        check_at=boottime + (policy.check_seconds or math.inf),
    )


def apply_time(record: KeyRecord, *, now: float, boottime: float) -> KeyRecord:
    """Apply all deadlines that have passed."""
    if record.valid_from <= now < record.valid_until:
        record = _bring_forward(record, boottime)
        record = dataclasses.replace(record, valid_from=math.inf)
    if not record.is_held:
        return record
    if now >= record.expires_at:
        # A newer version may exist.
        return _bring_forward(_end_key(record, KeyState.EXPIRED), boottime)
    if boottime >= record.drop_at:
        ended = _end_key(record, KeyState.EXPIRED)
        # After a failure the next attempt is near. Without a failure, the last release
        # brought a version that was not valid, and the next attempt may be hours away.
        return ended if ended.retry.failures else _bring_forward(ended, boottime)
    if record.has_previous and (
        boottime >= record.overlap_until or now >= record.previous_expires_at
    ):
        record = dataclasses.replace(record, overlap_until=-math.inf)
    if boottime >= record.stale_at and record.state is not KeyState.STALE:
        return dataclasses.replace(record, state=KeyState.STALE)
    return record


def seconds_until_change(record: KeyRecord, *, now: float, boottime: float) -> float:
    """Return the seconds until `apply_time` changes the record; infinite if never."""
    valid_from = math.inf if now >= record.valid_until else record.valid_from
    if not record.is_held:
        return max(0.0, valid_from - now)
    is_current = record.state is KeyState.CURRENT
    deadline = record.stale_at if is_current else record.drop_at
    expires_at = record.expires_at
    if record.has_previous:
        deadline = min(deadline, record.overlap_until)
        expires_at = min(expires_at, record.previous_expires_at)
    expires_at = min(expires_at, valid_from)
    return max(0.0, min(deadline - boottime, expires_at - now))


def _expiry(key: ReleasedKey) -> float:
    """Return the key's own `exp`; infinite if it has none."""
    return math.inf if key.expires is None else key.expires


def _bring_forward(record: KeyRecord, boottime: float) -> KeyRecord:
    return plan(record, due_times.bring_forward(record.retry, boottime))


def _end_key(record: KeyRecord, state: KeyState) -> KeyRecord:
    return dataclasses.replace(
        record,
        state=state,
        stale_at=math.inf,
        drop_at=math.inf,
        expires_at=math.inf,
        version="",
        check_at=math.inf,
        overlap_until=-math.inf,
        valid_from=math.inf,
    )
