"""What must be served and what must not: the rules of a key's life, told once more.

Written from the words of the design and of the docstrings, in the order of events, and
with no code of the agent: it looks back at what was released, denied and ordered, where
the agent plans ahead. A difference between the two fails the test.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from support.life_cloud import LONGEST_RETRY_AFTER, Listener, Place, content

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
NEAR = 1e-3  # seconds: nobody is held to a millisecond


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
class Fate:
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
    not_before: float = 0.0  # somebody asked us to wait until then
    is_ordered: bool = False  # since the last job for it began
    aged_at: float = -1e9  # when time took a version away, by boot time

    def lose(self) -> None:
        self.grant = self.previous = None

    def forget_denials(self) -> None:
        self.clear_denials = 0
        self.first_denials.clear()

    def deny(self, code: str, boot: float) -> None:
        """Hear a denial, and let go of the key if that confirms one."""
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
    """The fates of all configured keys."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.fates: dict[str, Fate] = {}
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
        before, self.fates = self.fates, {}
        requests, self.keys = self.keys, keys
        for alias, key in keys.items():
            place = key.vault, key.name
            fate = before.get(alias)
            if fate is None or fate.place != place:
                fate = Fate(place, policies[alias])
            if requests.get(alias) != key and not fate.is_dropped:
                fate.forget_denials()
            fate.policy = policies[alias]
            fate.not_before = 0.0
            self.fates[alias] = fate
        self._nobody_before, self._is_hurried = 0.0, True

    def refresh(self, alias: str) -> None:
        self.fates[alias].is_dropped = False
        self.fates[alias].not_before = 0.0
        self.fates[alias].is_ordered = True
        self._nobody_before, self._is_hurried = 0.0, True

    def drop(self, alias: str) -> None:
        fate = self.fates[alias]
        fate.lose()
        fate.is_dropped, fate.not_before = True, 0.0
        fate.forget_denials()
        self._in_job.pop(alias, None)

    def restart(self) -> None:
        """Hear that another agent took over, which knows what is held and no more."""
        self._in_job = {}
        self._nobody_before, self._is_hurried = 0.0, False
        for fate in self.fates.values():
            fate.is_dropped, fate.not_before, fate.is_ordered = False, 0.0, False
            fate.forget_denials()

    # What jobs tell.

    def job_began(self, keys: Sequence[KeyRequest]) -> None:
        self._in_job = {key.alias: key for key in keys}
        self._is_hurried = False
        boot = self._clock.boot + NEAR
        assert boot >= self._nobody_before, "a Retry-After for all was not obeyed"
        for key in keys:
            fate = self.fates[key.alias]
            assert not fate.is_dropped, f"{key.alias} was dropped, and asked for"
            assert boot >= fate.not_before, f"{key.alias}: Retry-After was not obeyed"
            fate.is_ordered = False

    def job_failed(self, keys: Sequence[KeyRequest], failure: Failure) -> None:
        self.age()
        for _, fate in self._concerned(keys):
            self._deny(fate, failure)
        if failure.retry_after is not None and not self._is_hurried:
            self._nobody_before = self._clock.boot + _capped(failure.retry_after)

    def attested(self) -> None:
        for fate in self.fates.values():
            fate.first_denials.pop("token.refused", None)

    def key_failed(self, key: KeyRequest, failure: Failure) -> None:
        self.age()
        for _, fate in self._concerned([key]):
            self._deny(fate, failure)
            if failure.retry_after is not None and not fate.is_ordered:
                fate.not_before = self._clock.boot + _capped(failure.retry_after)

    def key_released(
        self, key: KeyRequest, answer: ReleasedKey, began_at: float, token_life: float
    ) -> None:
        self.age()
        for alias, fate in self._concerned([key]):
            if not answer.enabled:
                fate.deny("release.denied.disabled", self._clock.boot)
                continue
            self.released_at[alias] = began_at
            fate.forget_denials()
            wall = self._clock.wall
            if answer.expires is not None and answer.expires <= wall:
                if fate.grant and fate.grant.version == answer.version:
                    fate.lose()
                continue
            if answer.not_before is not None and answer.not_before > wall:
                continue
            own = fate.policy.refresh_seconds
            before, fate.grant = (
                fate.grant,
                Grant(
                    version=answer.version,
                    expires=answer.expires,
                    began_at=began_at,
                    fresh=token_life if own is None else own / REFRESHED_AFTER,
                ),
            )
            if before is not None and before.version != answer.version:
                overlap = fate.policy.overlap_seconds
                fate.previous = before if overlap else None
                fate.previous_until = began_at + overlap

    def _deny(self, fate: Fate, failure: Failure) -> None:
        if failure.disposition == "denied":
            fate.deny(failure.code, self._clock.boot)

    def _concerned(self, keys: Iterable[KeyRequest]) -> list[tuple[str, Fate]]:
        """Whom an answer still means: who was not dropped or changed since."""
        return [
            (key.alias, self.fates[key.alias])
            for key in keys
            if self._in_job.get(key.alias) == key == self.keys.get(key.alias)
        ]

    # What must be.

    def age(self) -> None:
        for fate in self.fates.values():
            fate.age(self._clock.boot, self._clock.wall)

    def content(self, alias: str, version: str | None = None) -> bytes | None:
        """Tell what must be served; None for nothing."""
        fate = self.fates[alias]
        for grant in (fate.grant, fate.previous):
            if grant is not None and version in (None, grant.version):
                return content(fate.place, grant.version)
        return None

    def is_undecided(self, alias: str) -> bool:
        return self.fates[alias].is_near_a_change(self._clock.boot, self._clock.wall)


def _capped(retry_after: float) -> float:
    return min(retry_after, LONGEST_RETRY_AFTER)
