"""What must be served and what must not: the rules of a key's life, told once more.

Written from the words of the design and of the docstrings, in the order of events, and
with no code of the agent: it looks back at what was released, denied and ordered, where
the agent plans ahead. A difference between the two fails the test.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from support.simulated_cloud import LONGEST_RETRY_AFTER, Listener, Place, content

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from support.agent import FakeClock

    from skragent.agent.key_records import KeyLifetimePolicy
    from skragent.job import Failure, KeyRequest, ReleasedKey

# What an authority's denial is, and how each is confirmed; nothing else ends a key.
CONFIRMED_BY_A_SECOND = {
    *("release.denied.policy", "release.denied.permission"),
    *("release.denied.disabled", "release.not_found"),
}
CONFIRMED_AFTER_FIVE_MINUTES = {
    *("release.denied", "release.denied.firewall", "release.denied.connection"),
    "token.refused",
}

REFRESHED_AFTER = 0.8  # of a token's life
NEAR = 1e-3  # seconds: the tests do not measure milliseconds


@dataclass
class Grant:
    """A version that was released and may be served."""

    version: str
    expires: float | None
    began_at: float
    fresh: float

    def has_expired(self, wall: float) -> bool:
        return self.expires is not None and wall >= self.expires


@dataclass
class History:
    """What happened to one configured key."""

    place: Place
    policy: KeyLifetimePolicy
    grant: Grant | None = None
    previous: Grant | None = None
    previous_until: float = 0.0
    clear_denials: int = 0  # since the last release
    # By code, since the last release.
    first_denials: dict[str, float] = dataclasses.field(default_factory=dict)
    is_dropped: bool = False
    not_before: float = 0.0  # by a Retry-After
    is_ordered: bool = False  # since the last job for it began
    aged_at: float = -1e9  # when time took a version away, by boot time

    def lose(self) -> None:
        self.grant = self.previous = None

    def forget_denials(self) -> None:
        self.clear_denials = 0
        self.first_denials.clear()

    def deny(self, code: str, boot: float) -> None:
        """Hear a denial, and end the key if that confirms one."""
        first = self.first_denials.setdefault(code, boot)
        if code in CONFIRMED_BY_A_SECOND:
            self.clear_denials += 1
            is_confirmed = self.clear_denials > 1
        else:
            assert code in CONFIRMED_AFTER_FIVE_MINUTES
            is_confirmed = boot >= first + 300
        if is_confirmed and not (self.grant and self.policy.is_kept_when_denied):
            self.lose()

    def is_stale(self, boot: float) -> bool:
        return self.grant is not None and (
            boot >= self.grant.began_at + self.grant.fresh
        )

    def age(self, boot: float, wall: float) -> None:
        """Let go of what is too old, for good: a clock set back brings nothing back."""
        if self.grant is None:
            return
        overdue = boot - self.grant.began_at - self.grant.fresh
        if self.grant.has_expired(wall) or overdue >= self.policy.max_stale_seconds:
            self.lose()
            self.aged_at = boot
        elif self.previous is not None and (
            self.previous.has_expired(wall) or boot >= self.previous_until
        ):
            self.previous = None
            self.aged_at = boot

    def is_near_a_change(self, boot: float, wall: float) -> bool:
        moments = [boot - self.aged_at]
        for grant in (self.grant, self.previous):
            if grant is None:
                continue
            stale = grant.began_at + grant.fresh
            moments += [boot - stale, boot - stale - self.policy.max_stale_seconds]
            if grant.expires is not None:
                moments.append(wall - grant.expires)
        moments.append(boot - self.previous_until)
        return any(abs(distance) < NEAR for distance in moments)


class Model(Listener):
    """The histories of all configured keys."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.histories: dict[str, History] = {}
        self.keys: Mapping[str, KeyRequest] = {}
        self._in_job: dict[str, KeyRequest] = {}
        self._nobody_before = 0.0
        self._is_hurried = False  # by an order since the last job began
        self.released_at: dict[str, float] = {}  # when its last job began

    # Orders.

    def configure(
        self, keys: Mapping[str, KeyRequest], policies: Mapping[str, KeyLifetimePolicy]
    ) -> None:
        self.age()
        before, self.histories = self.histories, {}
        requests, self.keys = self.keys, keys
        for alias, key in keys.items():
            place = key.vault, key.name
            history = before.get(alias)
            if history is None or history.place != place:
                history = History(place, policies[alias])
            if requests.get(alias) != key and not history.is_dropped:
                history.forget_denials()
            history.policy = policies[alias]
            history.not_before = 0.0
            self.histories[alias] = history
        self._nobody_before, self._is_hurried = 0.0, True

    def refresh(self, alias: str) -> None:
        self.histories[alias].is_dropped = False
        self.histories[alias].not_before = 0.0
        self.histories[alias].is_ordered = True
        self._nobody_before, self._is_hurried = 0.0, True

    def drop(self, alias: str) -> None:
        history = self.histories[alias]
        history.lose()
        history.is_dropped, history.not_before = True, 0.0
        history.forget_denials()
        self._in_job.pop(alias, None)

    def restart(self) -> None:
        """Hear that another agent took over, which knows what is held and no more."""
        self._in_job = {}
        self._nobody_before, self._is_hurried = 0.0, False
        for history in self.histories.values():
            history.is_dropped, history.not_before, history.is_ordered = (
                False,
                0.0,
                False,
            )
            history.forget_denials()

    # What jobs tell.

    def job_began(self, keys: Sequence[KeyRequest]) -> None:
        self._in_job = {key.alias: key for key in keys}
        self._is_hurried = False
        boot = self._clock.boot + NEAR
        assert boot >= self._nobody_before, "a Retry-After for all was not obeyed"
        for key in keys:
            history = self.histories[key.alias]
            assert not history.is_dropped, f"{key.alias} was dropped, and asked for"
            assert boot >= history.not_before, (
                f"{key.alias}: Retry-After was not obeyed"
            )
            history.is_ordered = False

    def job_failed(self, keys: Sequence[KeyRequest], failure: Failure) -> None:
        self.age()
        for _, history in self._concerned(keys):
            self._deny(history, failure)
        if failure.retry_after is not None and not self._is_hurried:
            self._nobody_before = self._clock.boot + _capped(failure.retry_after)

    def attested(self) -> None:
        for history in self.histories.values():
            history.first_denials.pop("token.refused", None)

    def key_failed(self, key: KeyRequest, failure: Failure) -> None:
        self.age()
        for _, history in self._concerned([key]):
            self._deny(history, failure)
            if failure.retry_after is not None and not history.is_ordered:
                history.not_before = self._clock.boot + _capped(failure.retry_after)

    def key_released(
        self, key: KeyRequest, answer: ReleasedKey, began_at: float, token_life: float
    ) -> None:
        self.age()
        for alias, history in self._concerned([key]):
            if not answer.enabled:
                history.deny("release.denied.disabled", self._clock.boot)
                continue
            self.released_at[alias] = began_at
            history.forget_denials()
            wall = self._clock.wall
            if answer.expires is not None and answer.expires <= wall:
                if history.grant and history.grant.version == answer.version:
                    history.lose()
                continue
            if answer.not_before is not None and answer.not_before > wall:
                continue
            own = history.policy.refresh_seconds
            before, history.grant = (
                history.grant,
                Grant(
                    version=answer.version,
                    expires=answer.expires,
                    began_at=began_at,
                    fresh=token_life if own is None else own / REFRESHED_AFTER,
                ),
            )
            if before is not None and before.version != answer.version:
                overlap = history.policy.overlap_seconds
                history.previous = before if overlap else None
                history.previous_until = began_at + overlap

    def _deny(self, history: History, failure: Failure) -> None:
        if failure.disposition == "denied":
            history.deny(failure.code, self._clock.boot)

    def _concerned(self, keys: Iterable[KeyRequest]) -> list[tuple[str, History]]:
        """Return the keys that were not dropped or reconfigured during the job."""
        return [
            (key.alias, self.histories[key.alias])
            for key in keys
            if self._in_job.get(key.alias) == key == self.keys.get(key.alias)
        ]

    # What must be.

    def age(self) -> None:
        for history in self.histories.values():
            history.age(self._clock.boot, self._clock.wall)

    def content(self, alias: str, version: str | None = None) -> bytes | None:
        """Return what must be served; None for nothing."""
        history = self.histories[alias]
        for grant in (history.grant, history.previous):
            if grant is not None and version in (None, grant.version):
                return content(history.place, grant.version)
        return None

    def is_undecided(self, alias: str) -> bool:
        return self.histories[alias].is_near_a_change(
            self._clock.boot, self._clock.wall
        )


def _capped(retry_after: float) -> float:
    return min(retry_after, LONGEST_RETRY_AFTER)
