"""What vaults still release: a vault gives 10 keys in 10 s, and then answers 429.

Pure. It is the supervisor that keeps to it, and not the releaser: what a releaser
remembers ends with its job, while retries, confirmations and refreshes come in other
jobs; and the one clock is here. So a job is for no more keys than their vaults release
at once, and the releaser asks for all of them side by side.

When a release happened within its job nobody tells: each one counts from the job's
beginning until 10 s after its end. Other machines have their part of the same 10; what
of that is too much the vault says (429, `backoff`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from skragent.job import KeyRequest

# For HSM keys, by vault and region (Azure Key Vault service limits: release counts as
# create). Managed HSM publishes no figure, so it is asked no faster.
RELEASES: Final = 10
WINDOW_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Spent:
    """Releases that one job had from one vault; they count until then (boot time)."""

    vault: str
    releases: int
    until: float


def spend(
    spent: Sequence[Spent], keys: Iterable[KeyRequest], *, ended_at: float
) -> tuple[Spent, ...]:
    """Note the releases of a job, and forget what counts no more."""
    asked = Counter(key.vault for key in keys)
    kept = (one for one in spent if one.until > ended_at)
    until = ended_at + WINDOW_SECONDS
    return (*kept, *(Spent(vault, n, until) for vault, n in asked.items()))


def allowed_keys(
    aliases: Iterable[str],
    keys: Mapping[str, KeyRequest],
    spent: Sequence[Spent] = (),
    *,
    boottime: float,
) -> tuple[str, ...]:
    """Pick the keys that their vaults release now, the first ones first."""
    used = _used(spent, boottime)
    found = []
    for alias in aliases:
        vault = keys[alias].vault
        if used[vault] < RELEASES:
            used[vault] += 1
            found.append(alias)
    return tuple(found)


def opening(
    keys: Mapping[str, KeyRequest], spent: Sequence[Spent], boottime: float
) -> dict[str, float]:
    """Tell when keys of vaults that release no more now can be asked for again."""
    used = _used(spent, boottime)
    opens: dict[str, float] = {}
    for one in spent:
        if one.until > boottime and used[one.vault] >= RELEASES:
            opens[one.vault] = min(one.until, opens.get(one.vault, one.until))
    return {a: opens[key.vault] for a, key in keys.items() if key.vault in opens}


def _used(spent: Sequence[Spent], boottime: float) -> Counter[str]:
    used: Counter[str] = Counter()
    for one in spent:
        if one.until > boottime:
            used[one.vault] += one.releases
    return used
