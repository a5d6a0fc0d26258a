"""When: pure functions of the token's life and of boot time.

Times are seconds on CLOCK_BOOTTIME unless they say otherwise; chance comes in as an
argument. How long to wait after a failure is `backoff`'s.
"""

from __future__ import annotations

import hashlib
import math
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from skragent.agent.lifecycle import KeyRecord

# Renewed early enough that two hours of MAA's eight are left to ride out an outage;
# spread so that a fleet that booted together does not come back together.
REFRESH_FRACTION: Final = 0.8
REFRESH_JITTER: Final = 0.1
# Of the spread, so much is the machine's own for all its life, and the rest is chance:
# images that share a machine id do not share the latter.
_OWN_PART: Final = 0.8

# MAA's tokens live 8 hours. What a verifier says beyond these is not believed: the
# agent would turn in circles, or never come back.
MIN_TOKEN_LIFE_SECONDS: Final = 5.0
MAX_TOKEN_LIFE_SECONDS: Final = 7 * 86400.0

# Looks for new versions that are due so near to each other are one.
CHECK_TOGETHER_SECONDS: Final = 30.0

_ALL_OPEN: Final[Mapping[str, float]] = MappingProxyType({})


def token_life_seconds(issued_at: float, expires_at: float) -> float:
    """Measure a token's life by the clock of who issued it: ours may be wrong."""
    life = expires_at - issued_at
    return min(max(life, MIN_TOKEN_LIFE_SECONDS), MAX_TOKEN_LIFE_SECONDS)


def spread_of(machine_id: str) -> float:
    """Give each machine its own place in a fleet's spread, from -1 to 1.

    A hash, for machine ids are not for everyone to see: machine-id(5).
    """
    digest = hashlib.sha256(b"skragent refresh " + machine_id.encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**47 - 1


def jitter(spread: float, chance: float) -> float:
    """Mix a machine's own place with chance, both from -1 to 1."""
    return _OWN_PART * spread + (1 - _OWN_PART) * chance


def refresh_after_seconds(
    life_seconds: float, jitter: float, fraction: float = REFRESH_FRACTION
) -> float:
    """Choose when to renew, counted from the token's beginning.

    Args:
        life_seconds: the token's life.
        jitter: from -1 to 1.
        fraction: of its life, after which it is renewed.
    """
    return life_seconds * fraction * (1 + REFRESH_JITTER * jitter)


def fresh_seconds(
    life_seconds: float, refresh_seconds: float | None, fraction: float
) -> float:
    """Tell how long after its release a key is not stale.

    As long as its token lives; or, where the key is refreshed in its own time, as
    much longer than that as tokens live longer than their refresh.
    """
    return life_seconds if refresh_seconds is None else refresh_seconds / fraction


def next_attempt(
    lives: Mapping[str, KeyRecord], opens: Mapping[str, float] = _ALL_OPEN
) -> float:
    """Tell when the next job is due: as soon as the first key is.

    Args:
        lives: of all keys.
        opens: when keys can be asked for whose vaults release no more now.
    """
    return min(
        (max(life.due_at, opens.get(a, life.due_at)) for a, life in lives.items()),
        default=float("inf"),
    )


def check_after_seconds(check_seconds: float, chance: float) -> float:
    """Choose when to look for a new version again; chance from -1 to 1."""
    return check_seconds * (1 + REFRESH_JITTER * chance)


def next_check(lives: Mapping[str, KeyRecord]) -> float:
    """Tell when the next look for new versions is due."""
    return min((life.check_at for life in lives.values()), default=math.inf)


def keys_to_check(lives: Mapping[str, KeyRecord], boottime: float) -> tuple[str, ...]:
    """List the keys that a look for new versions is for now: all that soon would be."""
    return tuple(
        alias
        for alias, life in lives.items()
        if life.check_at <= boottime + CHECK_TOGETHER_SECONDS
    )


def due_keys(lives: Mapping[str, KeyRecord], boottime: float) -> tuple[str, ...]:
    """List the keys that are due now, whoever waits the longest first.

    Keys whose jobs crashed come after all others, which are not to wait for them.
    """
    due = [alias for alias, life in lives.items() if life.due_at <= boottime]
    return tuple(sorted(due, key=lambda a: (-lives[a].company, lives[a].due_at)))


def together(aliases: Sequence[str], lives: Mapping[str, KeyRecord]) -> tuple[str, ...]:
    """Choose whom one job is for: one attestation serves them all, if it may.

    Keys of jobs that crashed keep to smaller company, until the one whose fault it was
    is alone and the others are released.
    """
    chosen: list[str] = []
    most = math.inf
    for alias in aliases:
        company = min(most, lives[alias].company)
        if len(chosen) < company:
            chosen.append(alias)
            most = company
    return tuple(chosen)
