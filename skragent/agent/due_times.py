"""When each key is requested next. Pure: times and random numbers are arguments.

Times are boot time in seconds (CLOCK_BOOTTIME). Each key has one `RetryState`, and
`RetryState.retry_at` is the time of its next attempt:

- after a release: at 80 % of the token's lifetime, or after the key's
  `refresh_seconds`, with jitter;
- after a failure: at the end of a backoff;
- after `skragent refresh`: at once.

A job asks each vault for no more keys than the release rate limit permits.

| failure                    | window, doubled by each one     | cap    |
|----------------------------|---------------------------------|--------|
| RETRY, REATTEST            | 1 s                             | 60 s   |
| 429 of a vault             | 10 s, and a tenth longer each   | 6 h    |
| DENIED, first              | CONFIRM_SECONDS                 |        |
| DENIED, later              | 60 s                            | 15 min |
| RETRY_SLOWLY, FATAL, first | CONFIRM_SECONDS                 |        |
| RETRY_SLOWLY, FATAL, later | 60 s                            | 15 min |

The wait is a random part of the window ("full jitter"), so that VMs that fail together
do not retry together. A Retry-After replaces the window, up to ten minutes; jitter only
adds to it. A Retry-After of less than a second is ignored: `Retry-After: 0` would cause
a tight loop. If a repetition later confirms a denial (`denial_confirmation`), the next
attempt comes no later than that.

A job can fail as a whole, for example because the provider does not respond. Then the
keys that were not in the job wait, too (`job_results`): their jobs would fail for the
same reason. Unless the job crashed, the failure counts for all keys that were due.

The window after a vault's 429 is different. The vault works, but many VMs wait for its
ten releases in 10 s, for hours if the fleet is large. No agent knows how many others
wait. So each window is a tenth longer than the one before, and a wait is about 10 s and
a tenth of the time that the key has waited already. Then the number of refused
requests grows with the logarithm of the fleet. Windows with a cap of one minute would
make it grow with the fleet, and a vault that counts refused requests would not recover.
Doubled windows would leave the vault idle: 1000 agents then take 2.8 times as long as
the limit requires. The jitter is small for the same reason. `make fleet` measures both
kinds of vault. The longer of the window and Retry-After applies, because Retry-After
says when the vault accepts requests again, not when it has accepted all others.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections import Counter
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from skragent.agent.denial_confirmation import (
    Denials,
    add_denial,
    count_repetitions,
)
from skragent.errors import Disposition
from skragent.job import MAX_KEYS, MAX_TOKEN_LIFE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from skragent.agent.key_records import KeyRecord
    from skragent.errors import AgentError
    from skragent.job import KeyRequest

# 20 % of a token's eight hours remain to survive an outage.
REFRESH_FRACTION: Final = 0.8
REFRESH_JITTER: Final = 0.1
# This part of the jitter belongs to the machine and never changes; the rest is random,
# because images that were cloned share a machine id.
_MACHINE_PART: Final = 0.8

# With a shorter lifetime the agent would refresh in a tight loop.
MIN_TOKEN_LIFE_SECONDS: Final = 5.0

MIN_RETRY_AFTER_SECONDS: Final = 1.0
MAX_RETRY_AFTER_SECONDS: Final = 600.0
RETRY_AFTER_JITTER: Final = 0.1

# A first denial is repeated soon, because a revoked key must not be served for long. A
# first fault that a person must fix is repeated soon, too: a TPM may fail once.
CONFIRM_SECONDS: Final = 3.0

# These do not pass by themselves: the backoff is long, and there is an alarm.
SLOW: Final = (Disposition.RETRY_SLOWLY, Disposition.FATAL)
NEEDS_ATTENTION: Final = (*SLOW, Disposition.DENIED)

# Releases of HSM keys by vault and region: Azure Key Vault service limits, "Key
# transactions". Managed HSM publishes no limit; the agent applies the same.
RELEASE_LIMIT: Final = 10
RELEASE_LIMIT_SECONDS: Final = 10.0

_NO_VAULT_LIMITS: Final[Mapping[str, float]] = MappingProxyType({})


class Window(NamedTuple):
    """The longest wait after a failure, as it grows with the number of failures."""

    first_seconds: float
    cap_seconds: float
    growth: float = 2.0


TRANSIENT: Final = Window(1, 60)
LASTING: Final = Window(60, 15 * 60)
# A tenth more each time, from the period over which a vault counts releases. The cap is
# shorter than the time between two refreshes.
THROTTLED: Final = Window(RELEASE_LIMIT_SECONDS, 6 * 3600, 1.1)
THROTTLED_JITTER: Final = 0.3


@dataclass(frozen=True, slots=True)
class RetryState:
    """The next attempt for one key, and the failures since its last success."""

    due_at: float = -math.inf  # planned, unless one of the next two is later
    retry_after_until: float = -math.inf  # requested by the vault; a refresh ends it
    # After a job failed as a whole. A refresh or reload ends it for all keys.
    job_backoff_until: float = -math.inf
    failures: int = 0
    slow_failures: int = 0  # with a disposition in SLOW
    throttles: int = 0  # 429 responses
    denials: Denials = field(default_factory=dict)
    batch_limit: int = MAX_KEYS  # keys of a job that this key may be in

    @property
    def retry_at(self) -> float:
        """The time of the next attempt."""
        return max(self.due_at, self.retry_after_until, self.job_backoff_until)


def count_failure(state: RetryState, error: AgentError, boottime: float) -> RetryState:
    """Count a failure. A fault between two denials leaves them as they are."""
    return dataclasses.replace(
        state,
        failures=state.failures + 1,
        slow_failures=state.slow_failures + (error.disposition in SLOW),
        throttles=state.throttles + is_throttled(error),
        denials=add_denial(state.denials, error.code, boottime),
    )


def clear_failures(state: RetryState) -> RetryState:
    """Forget all failures. The planned attempt does not change."""
    return dataclasses.replace(
        RetryState(),
        due_at=state.due_at,
        retry_after_until=state.retry_after_until,
        job_backoff_until=state.job_backoff_until,
    )


def plan_attempt(
    state: RetryState, due_at: float, *, is_retry_after: bool = False
) -> RetryState:
    """Plan the next attempt.

    Args:
        state: before.
        due_at: the time.
        is_retry_after: the vault requested this time: only a refresh is earlier.
    """
    retry_after_until = due_at if is_retry_after else -math.inf
    return dataclasses.replace(
        state, due_at=due_at, retry_after_until=retry_after_until
    )


def bring_forward(state: RetryState, boottime: float) -> RetryState:
    """Plan the next attempt for now, or for the end of a backoff or Retry-After."""
    return dataclasses.replace(state, due_at=min(state.due_at, boottime))


def request_now(state: RetryState, boottime: float) -> RetryState:
    """Plan the next attempt for now, and end every backoff and Retry-After."""
    return dataclasses.replace(
        bring_forward(state, boottime),
        retry_after_until=-math.inf,
        job_backoff_until=-math.inf,
    )


def back_off_job(state: RetryState, until: float) -> RetryState:
    """Let no job for this key begin before a time."""
    return dataclasses.replace(
        state, job_backoff_until=max(state.job_backoff_until, until)
    )


def end_job_backoff(state: RetryState) -> RetryState:
    """End the wait after a job that failed as a whole."""
    if state.job_backoff_until == -math.inf:
        return state
    return dataclasses.replace(state, job_backoff_until=-math.inf)


# Backoff.


def backoff_seconds(
    error: AgentError,
    state: RetryState,
    *,
    jitter: float,
    is_vault: bool = True,
    confirms_in: float = math.inf,
) -> float:
    """Choose the wait after a failure.

    Args:
        error: the failure.
        state: of the key, with this failure counted.
        jitter: random, from 0 to 1.
        is_vault: the failure is the vault's. IMDS and the attestation provider accept
            requests again soon after a 429; a vault has many others to serve.
        confirms_in: seconds until a repetition of this denial confirms it.
    """
    retry_after = retry_after_seconds(error, jitter)
    if is_vault and is_throttled(error):
        spread = THROTTLED_JITTER * (2 * jitter - 1)
        window = window_seconds(THROTTLED, state.throttles)
        return max(retry_after, window * (1 + spread))
    if retry_after:
        return retry_after
    longest = longest_backoff_seconds(error, state)
    return min(longest * jitter, confirms_in + CONFIRM_SECONDS * jitter)


def longest_backoff_seconds(error: AgentError, state: RetryState) -> float:
    """Return the window after a failure that is counted already."""
    if error.disposition in (Disposition.RETRY, Disposition.REATTEST):
        return window_seconds(TRANSIENT, state.failures)
    if error.disposition is Disposition.DENIED:
        return lasting_window_seconds(count_repetitions(state.denials, error.code))
    return lasting_window_seconds(state.slow_failures)


def lasting_window_seconds(count: int) -> float:
    """Return the window after a failure that does not pass by itself.

    Args:
        count: of such failures since the last success.
    """
    return CONFIRM_SECONDS if count <= 1 else window_seconds(LASTING, count - 1)


@functools.lru_cache(maxsize=1024)
def window_seconds(window: Window, failures: int) -> float:
    """Return a window's length after so many failures."""
    import tenacity  # noqa: PLC0415 - the first releaser starts before it is loaded

    strategy = tenacity.wait_exponential(
        multiplier=window.first_seconds, exp_base=window.growth, max=window.cap_seconds
    )
    call = tenacity.RetryCallState(tenacity.Retrying(), fn=None, args=(), kwargs={})
    call.attempt_number = max(1, failures)
    return strategy(call)


def retry_after_seconds(error: AgentError, jitter: float) -> float:
    """Return the wait that the service requested, with jitter; 0 if it did not."""
    if error.retry_after is None or not has_retry_after(error):
        return 0.0
    seconds = error.retry_after * (1 + RETRY_AFTER_JITTER * jitter)
    return min(seconds, MAX_RETRY_AFTER_SECONDS)


def has_retry_after(error: AgentError) -> bool:
    """Return whether the service said when to repeat the request."""
    seconds = error.retry_after
    return seconds is not None and seconds >= MIN_RETRY_AFTER_SECONDS


def is_throttled(error: AgentError) -> bool:
    """Return whether the service had too many requests: 429."""
    return error.code == "transport.throttled"


# Refresh.


def token_life_seconds(issued_at: float, expires_at: float) -> float:
    """Return a token's lifetime, by its issuer's clock: the VM's may be wrong."""
    life = expires_at - issued_at
    return min(max(life, MIN_TOKEN_LIFE_SECONDS), MAX_TOKEN_LIFE_SECONDS)


def machine_spread(machine_id: str) -> float:
    """Return a machine's own place in the jitter of its fleet, from -1 to 1.

    A hash, because machine ids are confidential: machine-id(5).
    """
    digest = hashlib.sha256(b"skragent refresh " + machine_id.encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**47 - 1


def fresh_seconds(life_seconds: float, refresh_seconds: float | None) -> float:
    """Return the seconds from a release until the key is stale.

    Args:
        life_seconds: of the token.
        refresh_seconds: of the key's policy; None: the key is as fresh as its token.
    """
    if refresh_seconds is None:
        return life_seconds
    return refresh_seconds / REFRESH_FRACTION


def refresh_after_seconds(
    seconds: float, *, spread: float = 0.0, jitter: float = 0.5
) -> float:
    """Return the seconds from a release until its refresh.

    Args:
        seconds: until the key is stale.
        spread: this machine's place in its fleet, from -1 to 1.
        jitter: random, from 0 to 1.
    """
    mixed = _MACHINE_PART * spread + (1 - _MACHINE_PART) * (2 * jitter - 1)
    return seconds * REFRESH_FRACTION * (1 + REFRESH_JITTER * mixed)


# The next job.


def next_attempt(
    records: Mapping[str, KeyRecord],
    vault_limits: Mapping[str, float] = _NO_VAULT_LIMITS,
) -> float:
    """Return when the next job is due: as soon as one key is.

    Args:
        records: of all keys.
        vault_limits: from `next_release_times`.
    """
    return min(
        (
            max(record.retry.retry_at, vault_limits.get(alias, -math.inf))
            for alias, record in records.items()
        ),
        default=math.inf,
    )


def due_keys(records: Mapping[str, KeyRecord], boottime: float) -> tuple[str, ...]:
    """List the keys that are due now, the longest due first.

    Keys of jobs that crashed come last, so that the other keys do not wait for them.
    """
    states = {alias: record.retry for alias, record in records.items()}
    due = [alias for alias, state in states.items() if state.retry_at <= boottime]
    return tuple(sorted(due, key=lambda a: (-states[a].batch_limit, states[a].due_at)))


def choose_batch(
    aliases: Sequence[str], records: Mapping[str, KeyRecord]
) -> tuple[str, ...]:
    """Choose the keys of one job from those that are due.

    One attestation serves all of them. Keys of jobs that crashed are in smaller and
    smaller batches, until the key that causes the crash is alone.
    """
    batch: list[str] = []
    limit = MAX_KEYS
    for alias in aliases:
        smaller = min(limit, records[alias].retry.batch_limit)
        if len(batch) < smaller:
            batch.append(alias)
            limit = smaller
    return tuple(batch)


# The release rate limit. The agent applies it, not the releaser: a releaser ends with
# its job, but the limit is for all jobs. The time of a release within its job is not
# known, so each release counts from the beginning of its job until 10 s after its end.
# Other VMs use the same vault; if the sum is too much, the vault responds with 429.


@dataclass(frozen=True, slots=True)
class RecentReleases:
    """The releases of one job by one vault."""

    vault: str
    count: int
    until: float  # the time until which they count


def count_releases(
    recent: Sequence[RecentReleases],
    keys: Iterable[KeyRequest],
    *,
    ended_at: float,
) -> tuple[RecentReleases, ...]:
    """Add the releases of a job, and remove those that no longer count."""
    by_vault = Counter(key.vault for key in keys)
    until = ended_at + RELEASE_LIMIT_SECONDS
    return (
        *(releases for releases in recent if releases.until > ended_at),
        *(RecentReleases(vault, n, until) for vault, n in by_vault.items()),
    )


def releasable_keys(
    aliases: Iterable[str],
    keys: Mapping[str, KeyRequest],
    recent: Sequence[RecentReleases] = (),
    *,
    boottime: float,
) -> tuple[str, ...]:
    """Choose the keys that their vaults' rate limits permit now, in order."""
    used = _count_by_vault(recent, boottime)
    chosen = []
    for alias in aliases:
        vault = keys[alias].vault
        if used[vault] < RELEASE_LIMIT:
            used[vault] += 1
            chosen.append(alias)
    return tuple(chosen)


def next_release_times(
    keys: Mapping[str, KeyRequest], recent: Sequence[RecentReleases], boottime: float
) -> dict[str, float]:
    """Return when the limit permits a release again, for keys that wait for that."""
    used = _count_by_vault(recent, boottime)
    times: dict[str, float] = {}
    for releases in recent:
        vault, until = releases.vault, releases.until
        if until > boottime and used[vault] >= RELEASE_LIMIT:
            times[vault] = min(until, times.get(vault, until))
    return {
        alias: times[key.vault] for alias, key in keys.items() if key.vault in times
    }


def _count_by_vault(recent: Sequence[RecentReleases], boottime: float) -> Counter[str]:
    used: Counter[str] = Counter()
    for releases in recent:
        if releases.until > boottime:
            used[releases.vault] += releases.count
    return used
