"""A second implementation of the rules about held keys, without code of the agent.

The agent plans the deadlines of a key in advance. This model records events instead,
and computes from them which bytes must be served now. A difference between the agent
and the model fails the test.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from support.simulated_cloud import (
    MAX_RETRY_AFTER_SECONDS,
    KeyId,
    Listener,
    bytes_of_version,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from support.agent import FakeClock

    from skragent.agent.key_records import KeyLifetimePolicy
    from skragent.job import Failure, KeyRequest, ReleasedKey

# The denials of an authority, by their confirmation. No other failure ends a key.
CONFIRMED_BY_A_SECOND = {
    *("release.denied.policy", "release.denied.permission"),
    *("release.denied.disabled", "release.not_found"),
}
CONFIRMED_AFTER_FIVE_MINUTES = {
    *("release.denied", "release.denied.firewall", "release.denied.connection"),
    "token.refused",
}

REFRESH_FRACTION = 0.8  # of a token's life
TOLERANCE_SECONDS = 1e-3  # the model is not exact to a millisecond


@dataclass
class HeldVersion:
    """A version that was released and may be served."""

    version: str
    expires: float | None
    began_at: float
    fresh_seconds: float

    def has_expired(self, wall: float) -> bool:
        return self.expires is not None and wall >= self.expires


@dataclass
class KeyHistory:
    """What happened to one configured key."""

    key_id: KeyId
    policy: KeyLifetimePolicy
    held: HeldVersion | None = None
    previous: HeldVersion | None = None
    previous_until: float = 0.0
    clear_denials: int = 0  # since the last release
    # The time of the first denial since the last release, by code.
    first_denials: dict[str, float] = dataclasses.field(default_factory=dict)
    is_dropped: bool = False
    not_before: float = 0.0  # the end of a Retry-After
    is_refresh_requested: bool = False  # since the key's last job began
    ended_at: float = -1e9  # the boot time at which a version expired

    def wipe(self) -> None:
        self.held = self.previous = None

    def forget_denials(self) -> None:
        self.clear_denials = 0
        self.first_denials.clear()

    def record_denial(self, code: str, boot: float) -> None:
        """Record a denial, and wipe the key if the denial is confirmed."""
        first = self.first_denials.setdefault(code, boot)
        if code in CONFIRMED_BY_A_SECOND:
            self.clear_denials += 1
            is_confirmed = self.clear_denials > 1
        else:
            assert code in CONFIRMED_AFTER_FIVE_MINUTES
            is_confirmed = boot >= first + 300
        if is_confirmed and not (self.held and self.policy.is_kept_when_denied):
            self.wipe()

    def is_stale(self, boot: float) -> bool:
        return self.held is not None and (
            boot >= self.held.began_at + self.held.fresh_seconds
        )

    def apply_time(self, boot: float, wall: float) -> None:
        """Wipe versions that are too old, for good, even if the clock is set back."""
        if self.held is None:
            return
        overdue = boot - self.held.began_at - self.held.fresh_seconds
        if self.held.has_expired(wall) or overdue >= self.policy.max_stale_seconds:
            self.wipe()
            self.ended_at = boot
        elif self.previous is not None and (
            self.previous.has_expired(wall) or boot >= self.previous_until
        ):
            self.previous = None
            self.ended_at = boot

    def is_near_deadline(self, boot: float, wall: float) -> bool:
        distances = [boot - self.ended_at]
        for held in (self.held, self.previous):
            if held is None:
                continue
            stale = held.began_at + held.fresh_seconds
            distances += [boot - stale, boot - stale - self.policy.max_stale_seconds]
            if held.expires is not None:
                distances.append(wall - held.expires)
        distances.append(boot - self.previous_until)
        return any(abs(distance) < TOLERANCE_SECONDS for distance in distances)


class ReferenceModel(Listener):
    """The histories of all configured keys."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.histories: dict[str, KeyHistory] = {}
        self.keys: Mapping[str, KeyRequest] = {}
        self._in_job: dict[str, KeyRequest] = {}
        # Returns the keys that are due: a job can have a limit for its keys.
        self.due_keys: Callable[[], list[KeyRequest]] = list
        self._due: dict[str, KeyRequest] = {}
        self._job_backoff_until = 0.0
        # A refresh or a reload ended it after the last job began.
        self._is_backoff_ended = False
        # The beginning of the last job that released the key.
        self.released_at: dict[str, float] = {}

    # Requests of administrators.

    def configure(
        self, keys: Mapping[str, KeyRequest], policies: Mapping[str, KeyLifetimePolicy]
    ) -> None:
        self.apply_time()
        before, self.histories = self.histories, {}
        requests, self.keys = self.keys, keys
        for alias, key in keys.items():
            key_id = key.vault, key.name
            history = before.get(alias)
            if history is None or history.key_id != key_id:
                history = KeyHistory(key_id, policies[alias])
            if requests.get(alias) != key and not history.is_dropped:
                history.forget_denials()
            history.policy = policies[alias]
            history.not_before = 0.0
            self.histories[alias] = history
        self._job_backoff_until, self._is_backoff_ended = 0.0, True

    def refresh(self, alias: str) -> None:
        self.histories[alias].is_dropped = False
        self.histories[alias].not_before = 0.0
        self.histories[alias].is_refresh_requested = True
        self._job_backoff_until, self._is_backoff_ended = 0.0, True

    def drop(self, alias: str) -> None:
        history = self.histories[alias]
        history.wipe()
        history.is_dropped, history.not_before = True, 0.0
        history.forget_denials()
        self._in_job.pop(alias, None)
        self._due.pop(alias, None)

    def restart(self) -> None:
        """Start another agent. It has the held keys, but not their failures."""
        self._in_job, self._due = {}, {}
        self._job_backoff_until, self._is_backoff_ended = 0.0, False
        for history in self.histories.values():
            history.is_dropped = history.is_refresh_requested = False
            history.not_before = 0.0
            history.forget_denials()

    # Events of jobs.

    def job_began(self, keys: Sequence[KeyRequest]) -> None:
        self._in_job = {key.alias: key for key in keys}
        self._due = {key.alias: key for key in self.due_keys()} | self._in_job
        self._is_backoff_ended = False
        boot = self._clock.boot + TOLERANCE_SECONDS
        assert boot >= self._job_backoff_until, (
            "a job began before the end of a Retry-After for all keys"
        )
        for key in keys:
            history = self.histories[key.alias]
            assert not history.is_dropped, f"{key.alias} is dropped, but was requested"
            assert boot >= history.not_before, (
                f"{key.alias}: requested before the end of its Retry-After"
            )
            history.is_refresh_requested = False

    def job_failed(self, keys: Sequence[KeyRequest], failure: Failure) -> None:
        del keys  # the failure concerns the other keys that were due, too
        self.apply_time()
        for alias, key in self._due.items():
            if self.keys.get(alias) == key:
                self._record_denial(self.histories[alias], failure)
        if failure.retry_after is not None and not self._is_backoff_ended:
            self._job_backoff_until = self._clock.boot + _capped(failure.retry_after)

    def attested(self) -> None:
        for history in self.histories.values():
            history.first_denials.pop("token.refused", None)

    def key_failed(self, key: KeyRequest, failure: Failure) -> None:
        self.apply_time()
        for _, history in self._wanted([key]):
            self._record_denial(history, failure)
            if failure.retry_after is not None and not history.is_refresh_requested:
                history.not_before = self._clock.boot + _capped(failure.retry_after)

    def key_released(
        self, key: KeyRequest, released: ReleasedKey, began_at: float, token_life: float
    ) -> None:
        self.apply_time()
        for alias, history in self._wanted([key]):
            if not released.enabled:
                history.record_denial("release.denied.disabled", self._clock.boot)
                continue
            self.released_at[alias] = began_at
            history.forget_denials()
            wall = self._clock.wall
            if released.expires is not None and released.expires <= wall:
                if history.held and history.held.version == released.version:
                    history.wipe()
                continue
            if released.not_before is not None and released.not_before > wall:
                continue
            seconds = history.policy.refresh_seconds
            before = history.held
            history.held = HeldVersion(
                version=released.version,
                expires=released.expires,
                began_at=began_at,
                fresh_seconds=seconds / REFRESH_FRACTION if seconds else token_life,
            )
            if before is not None and before.version != released.version:
                overlap = history.policy.overlap_seconds
                history.previous = before if overlap else None
                history.previous_until = began_at + overlap

    def _record_denial(self, history: KeyHistory, failure: Failure) -> None:
        if failure.disposition == "denied":
            history.record_denial(failure.code, self._clock.boot)

    def _wanted(self, keys: Iterable[KeyRequest]) -> list[tuple[str, KeyHistory]]:
        """Return the keys that were not dropped or reconfigured during the job."""
        return [
            (key.alias, self.histories[key.alias])
            for key in keys
            if self._in_job.get(key.alias) == key == self.keys.get(key.alias)
        ]

    # The expected state.

    def apply_time(self) -> None:
        for history in self.histories.values():
            history.apply_time(self._clock.boot, self._clock.wall)

    def served_bytes(self, alias: str, version: str | None = None) -> bytes | None:
        """Return the bytes that must be served; None if no bytes may be."""
        history = self.histories[alias]
        for held in (history.held, history.previous):
            if held is not None and version in (None, held.version):
                return bytes_of_version(history.key_id, held.version)
        return None

    def is_near_deadline(self, alias: str) -> bool:
        """Return whether the agent may be a moment before or after a deadline."""
        return self.histories[alias].is_near_deadline(
            self._clock.boot, self._clock.wall
        )


def _capped(retry_after: float) -> float:
    return min(retry_after, MAX_RETRY_AFTER_SECONDS)
