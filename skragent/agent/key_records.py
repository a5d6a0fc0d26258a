"""The life of one key: pure transitions between its states.

    waiting -> current -> stale -> (current | denied | expired | dropped)

A key is *held* while it is current or stale, and wiped in every other state. Exactly
these events end a held key:

- an authority's denial that is confirmed (`skragent.denials`, `failures`), unless the
  key's terms say `on_denial = "keep"`;
- the held version's own `exp`;
- an administrator: drop, removal by a reload, stop of the agent;
- `max_stale_seconds`, counted from the moment at which its refresh is overdue.

Every other failure, whatever its disposition, is a fault: the key stays held.

Not here: clocks, chance, the keyring. Deadlines are on CLOCK_BOOTTIME; only the
key's own `exp` and `nbf`, which the vault says in wall time, are judged by wall time.
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skragent.agent.due_times import (
    NONE,
    Failures,
    accepted,
    counted,
    is_confirmed,
    seconds_to_confirm,
)
from skragent.agent.jobs import is_same_key
from skragent.denials import (
    DENIALS,
    REPEATED_AFTER_SECONDS,
    Authority,
    Confirmation,
)
from skragent.job import MAX_KEYS
from skragent.keyring import KeyState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skragent.agent.clock import Clock
    from skragent.agent.interfaces import Holder
    from skragent.config import Config
    from skragent.errors import AgentError
    from skragent.job import KeyRequest, ReleasedKey
    from skragent.keyring import PreservedRecord


class Admission(enum.Enum):
    """Whether a released key may be held, by its own attributes."""

    HELD = "held"
    NOT_YET = "release.not_yet_valid"
    EXPIRED = "release.expired"
    DISABLED = "release.denied.disabled"


@dataclass(frozen=True, slots=True)
class Terms:
    """What the configuration says of a key's life."""

    # Long enough for an outage over a night with people to mend it in the morning.
    max_stale_seconds: float = 24 * 3600.0
    is_kept_when_denied: bool = False
    refresh_seconds: float | None = None  # None: as often as tokens are renewed
    check_seconds: float | None = None  # between looks for a new version; None: none
    overlap_seconds: float = 0.0  # a version is served after its successor came


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """All that is remembered of one key's past, and its deadlines."""

    terms: Terms = Terms()
    state: KeyState = KeyState.WAITING
    due_at: float = -math.inf  # the next attempt
    held_off_until: float = (
        -math.inf
    )  # by a Retry-After, which only an order cuts short
    failures: Failures = NONE  # since the last success
    company: int = MAX_KEYS  # that it may share a job with, itself included
    stale_at: float = math.inf
    drop_at: float = math.inf
    expires_at: float = math.inf  # wall time: the vault's `exp`
    version: str = ""  # that is held
    check_at: float = math.inf  # the next look for a newer one
    may_check: bool = True  # whether the identity has the permission to
    # Until when the version before is held as well, by boot time and by its own `exp`.
    overlap_until: float = -math.inf
    previous_expires_at: float = math.inf
    # What was released last may be held from then until then (wall time): it was not,
    # and it is asked for again as soon as the wall clock says so, also by being set.
    admissible_from: float = math.inf
    admissible_until: float = math.inf

    @property
    def is_held(self) -> bool:
        """Tell whether there is a key to serve."""
        return self.state in (KeyState.CURRENT, KeyState.STALE)

    @property
    def has_previous(self) -> bool:
        """Tell whether the version before is held as well."""
        return self.is_held and self.overlap_until > -math.inf


def key_terms(config: Config) -> dict[str, Terms]:
    """List what is configured of each key's life."""
    return {
        alias: Terms(
            max_stale_seconds=key.max_stale_seconds,
            is_kept_when_denied=key.on_denial == "keep",
            refresh_seconds=key.refresh_seconds or None,
            overlap_seconds=key.overlap_seconds,
            check_seconds=None if key.version else key.version_check_seconds or None,
        )
        for alias, key in config.keys.items()
    }


def admit(key: ReleasedKey, now: float) -> Admission:
    """Judge a released key by its own attributes.

    The vault releases outside `nbf` and `exp` all the same, so we hold the line.
    """
    if not key.enabled:
        return Admission.DISABLED
    if key.expires is not None and key.expires <= now:
        return Admission.EXPIRED
    if key.not_before is not None and key.not_before > now:
        return Admission.NOT_YET
    return Admission.HELD


def released(
    before: KeyRecord, key: ReleasedKey, *, began_at: float, fresh_seconds: float
) -> KeyRecord:
    """Begin a key's life anew: it was released and may be held.

    Args:
        before: its life up to now.
        key: what was released.
        began_at: when the job began: nothing of it is older, but a token that was kept.
        fresh_seconds: after it, until the key is stale: see `schedule`.
    """
    terms, stale_at = before.terms, began_at + fresh_seconds
    life = dataclasses.replace(
        before,
        state=KeyState.CURRENT,
        failures=NONE,
        company=MAX_KEYS,
        admissible_from=math.inf,
        stale_at=stale_at,
        drop_at=stale_at + terms.max_stale_seconds,
        expires_at=_end(key),
        version=key.version,
    )
    if not before.is_held or before.version == key.version:
        return life
    if terms.overlap_seconds <= 0:
        return dataclasses.replace(life, overlap_until=-math.inf)
    return dataclasses.replace(
        life,
        overlap_until=began_at + terms.overlap_seconds,
        previous_expires_at=before.expires_at,
    )


def restored(
    terms: Terms, record: PreservedRecord, previous: PreservedRecord | None
) -> KeyRecord:
    """Go on with a key that an agent before this one held; it is due at once.

    Args:
        terms: as the configuration says now.
        record: of the held version.
        previous: of the version before, if it is there as well.
    """
    life = KeyRecord(
        terms=terms,
        state=KeyState.CURRENT,
        stale_at=record.stale_at,
        drop_at=record.stale_at + terms.max_stale_seconds,
        expires_at=_end(record.key),
        version=record.key.version,
    )
    if previous is None or record.overlap_until is None:
        return life
    return dataclasses.replace(
        life,
        overlap_until=record.overlap_until,
        previous_expires_at=_end(previous.key),
    )


def not_admitted(life: KeyRecord, key: ReleasedKey, admission: Admission) -> KeyRecord:
    """Go on after the release of a version that is not valid yet, or no longer.

    It never displaces another version that is held. The held version itself ends by its
    own `exp`. (A disabled version is a denial, and does not come here.) While nothing
    is held, the next attempt comes after a long backoff.
    """
    is_other = life.is_held and key.version != life.version
    if admission is Admission.EXPIRED and not is_other:
        life = _let_go(life, KeyState.EXPIRED)
    total = 0 if life.is_held else life.failures.total + 1
    return dataclasses.replace(
        life,
        failures=Failures(total=total, slow=total),
        company=MAX_KEYS,
        admissible_from=-math.inf if key.not_before is None else key.not_before,
        admissible_until=math.inf if key.expires is None else key.expires,
    )


def failed(life: KeyRecord, error: AgentError, boottime: float) -> KeyRecord:
    """Go on after an attempt that failed; when the next one is due is not changed."""
    failures = counted(life.failures, error, boottime)
    life = dataclasses.replace(life, failures=failures, company=MAX_KEYS)
    is_kept = life.is_held and life.terms.is_kept_when_denied
    if is_confirmed(failures, error, boottime) and not is_kept:
        return _let_go(life, KeyState.DENIED)
    return life


def seconds_until_confirmable(
    life: KeyRecord, error: AgentError, boottime: float
) -> float:
    """Return when a repetition of this denial would end the key; infinite if never."""
    if not life.is_held or life.terms.is_kept_when_denied:
        return math.inf
    return seconds_to_confirm(life.failures, error, boottime)


def seconds_until_wiped(life: KeyRecord, boottime: float, retry_in: float) -> float:
    """Return the time until a repeated denial can wipe the held key; infinite if never.

    Args:
        life: the key's record after a failure.
        boottime: now.
        retry_in: seconds until the next attempt.
    """
    if not life.is_held or life.terms.is_kept_when_denied:
        return math.inf
    times = [math.inf]
    for code, denied in life.failures.denials.items():
        left = denied.first_at + REPEATED_AFTER_SECONDS - boottime
        is_clear = DENIALS[code].confirmation is Confirmation.FRESH_TOKEN
        times.append(left if left > 0 and not is_clear else retry_in)
    return min(times)


def crashed(
    life: KeyRecord, error: AgentError, *, company: int, boottime: float
) -> KeyRecord:
    """Go on after a job that crashed or hung: it may have been this key's fault.

    It stays due, behind whoever is due already, and keeps to half of the company.
    """
    return dataclasses.replace(
        life,
        failures=counted(life.failures, error, boottime),
        due_at=boottime,
        company=max(1, company // 2),
    )


def dropped(life: KeyRecord) -> KeyRecord:
    """Let go of a key because an administrator says so; it is not asked for again."""
    return dataclasses.replace(
        _let_go(life, KeyState.DROPPED),
        due_at=math.inf,
        failures=NONE,
    )


def asked_for(life: KeyRecord, boottime: float) -> KeyRecord:
    """Ask for a key now, whatever was planned; one that was dropped may come back."""
    state = KeyState.WAITING if life.state is KeyState.DROPPED else life.state
    return dataclasses.replace(
        life,
        state=state,
        due_at=min(life.due_at, boottime),
        held_off_until=-math.inf,
    )


def reconfigured(
    life: KeyRecord,
    before: KeyRequest,
    after: KeyRequest,
    *,
    terms: Terms,
    boottime: float,
) -> KeyRecord:
    """Go on where the configuration now says something else of a key.

    Another key of a vault, or of another one, has nothing to do with what is held.
    Another version of the same is its successor; a denial of one, or of another
    identity, confirms none of the other.
    """
    if not is_same_key(before, after):
        return KeyRecord(terms=terms)
    if terms != life.terms:
        refresh_at = boottime + (terms.refresh_seconds or math.inf)
        life = dataclasses.replace(
            life,
            terms=terms,
            due_at=min(life.due_at, refresh_at) if life.is_held else life.due_at,
            drop_at=life.stale_at + terms.max_stale_seconds,
            check_at=boottime + (terms.check_seconds or math.inf)
            if life.is_held
            else math.inf,
            may_check=True,
        )
    if before != after and life.state is not KeyState.DROPPED:
        life = dataclasses.replace(life, failures=NONE)
        return asked_for(life, boottime)
    return life


def attested(life: KeyRecord) -> KeyRecord:
    """Go on after the provider accepted this VM's evidence."""
    before = life.failures
    after = accepted(before, Authority.PROVIDER)
    return life if after is before else dataclasses.replace(life, failures=after)


def to_be_checked(life: KeyRecord, check_at: float) -> KeyRecord:
    """Plan the next look for a newer version, where there may be one."""
    return dataclasses.replace(life, check_at=check_at if life.may_check else math.inf)


def cannot_be_checked(life: KeyRecord) -> KeyRecord:
    """Look no more: the identity has no permission to."""
    return dataclasses.replace(life, may_check=False, check_at=math.inf)


def planned(life: KeyRecord, due_at: float, *, is_held_off: bool = False) -> KeyRecord:
    """Set the next attempt; held off, it is not brought forward but by an order."""
    held_off_until = due_at if is_held_off else -math.inf
    return dataclasses.replace(life, due_at=due_at, held_off_until=held_off_until)


def aged(life: KeyRecord, *, now: float, boottime: float) -> KeyRecord:
    """Let time do its work on a key."""
    if life.admissible_from <= now < life.admissible_until:
        life = dataclasses.replace(
            _brought_forward(life, boottime), admissible_from=math.inf
        )
    if not life.is_held:
        return life
    if now >= life.expires_at:
        # There may be a newer version: ask at once, whatever was planned.
        return _brought_forward(_let_go(life, KeyState.EXPIRED), boottime)
    if boottime >= life.drop_at:
        gone = _let_go(life, KeyState.EXPIRED)
        # After a failure the next attempt is near anyway. Without one, what came was
        # not valid yet, and is asked for like other keys that are not held.
        return gone if life.failures else _brought_forward(gone, boottime)
    if life.has_previous and (
        boottime >= life.overlap_until or now >= life.previous_expires_at
    ):
        life = dataclasses.replace(life, overlap_until=-math.inf)
    if boottime >= life.stale_at:
        return dataclasses.replace(life, state=KeyState.STALE)
    return life


def seconds_until_change(life: KeyRecord, *, now: float, boottime: float) -> float:
    """Tell how long `aged` will change nothing; infinite where it never will."""
    admissible = math.inf if now >= life.admissible_until else life.admissible_from
    if not life.is_held:
        return max(0.0, admissible - now)
    deadline = life.stale_at if life.state is KeyState.CURRENT else life.drop_at
    expires_at = life.expires_at
    if life.has_previous:
        deadline = min(deadline, life.overlap_until)
        expires_at = min(expires_at, life.previous_expires_at)
    expires_at = min(expires_at, admissible)
    return max(0.0, min(deadline - boottime, expires_at - now))


def _end(key: ReleasedKey) -> float:
    """Return the key's own `exp`; infinite if it has none."""
    return math.inf if key.expires is None else key.expires


def _brought_forward(life: KeyRecord, boottime: float) -> KeyRecord:
    soonest = max(boottime, life.held_off_until)
    return dataclasses.replace(life, due_at=min(life.due_at, soonest))


def _let_go(life: KeyRecord, state: KeyState) -> KeyRecord:
    return dataclasses.replace(
        life,
        state=state,
        stale_at=math.inf,
        drop_at=math.inf,
        expires_at=math.inf,
        version="",
        check_at=math.inf,
        overlap_until=-math.inf,
        admissible_from=math.inf,
    )


class Lives:
    """What is wanted, and what is remembered of each.

    Args:
        keys: what is to be held, by alias.
        terms: what is configured of each key's life.
        holder: is told of every change.
        clock: the one clock.
        restored: of keys that are held already, from the agent before this one.
    """

    def __init__(
        self,
        keys: Mapping[str, KeyRequest],
        terms: Mapping[str, Terms],
        holder: Holder,
        clock: Clock,
        restored: Mapping[str, KeyRecord],
    ) -> None:
        self.keys = keys
        self.of = {
            alias: restored.get(alias) or KeyRecord(terms=terms[alias])
            for alias in keys
        }
        self.plans_changed = asyncio.Event()
        self.changed = asyncio.Event()
        self._holder = holder
        self._clock = clock

    def put(self, alias: str, life: KeyRecord) -> None:
        """Let a life go on."""
        before, self.of[alias] = self.of[alias], life
        if life is before:
            return
        self.wake()
        if before.has_previous and life.is_held and not life.has_previous:
            self._holder.end_overlap(alias)
        if life.state is not before.state:
            self._holder.changed(alias, life)

    def wake(self) -> None:
        """Have both loops look again."""
        self.plans_changed.set()
        self.changed.set()

    def age(self) -> float:
        """Let time do its work up to now; tell how long it will change nothing."""
        now, boottime = self._clock.now(), self._clock.boottime()
        for alias, life in self.of.items():
            self.put(alias, aged(life, now=now, boottime=boottime))
        return min(
            (
                seconds_until_change(life, now=now, boottime=boottime)
                for life in self.of.values()
            ),
            default=float("inf"),
        )

    def attested(self) -> None:
        """Hear that the provider accepted this VM's evidence."""
        for alias, life in self.of.items():
            self.put(alias, attested(life))

    def configure(
        self, keys: Mapping[str, KeyRequest], terms: Mapping[str, Terms]
    ) -> None:
        """Keep these keys from now on; what goes on under the same name stays held."""
        before, self.keys = self.keys, keys
        of, self.of = self.of, {}
        for alias in keys:
            self.of[alias] = of.get(alias) or KeyRecord(terms=terms[alias])
        for alias in keys.keys() & before.keys():
            life = reconfigured(
                self.of[alias],
                before[alias],
                keys[alias],
                terms=terms[alias],
                boottime=self._clock.boottime(),
            )
            self.put(alias, life)
        self.wake()
