"""When a denial of a key counts as confirmed. Pure.

`skragent.denials` lists the denials and says how each one is confirmed. This module
applies that table to the denials of one key since its last release. All times are
boot time.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from skragent.denials import DENIALS, REPEATED_AFTER_SECONDS, Confirmation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skragent.denials import Authority

# The first denial in clear words needs a second one, with a fresh token.
_CLEAR_DENIALS_TO_CONFIRM: Final = 2


class RepeatedDenial(NamedTuple):
    """The denials with one code."""

    first_at: float
    times: int


# By code.
Denials: TypeAlias = "Mapping[str, RepeatedDenial]"


def add_denial(denials: Denials, code: str, boottime: float) -> Denials:
    """Count a denial. Return the mapping unchanged if the code is not a denial."""
    if code not in DENIALS:
        return denials
    before = denials.get(code, RepeatedDenial(boottime, 0))
    return {**denials, code: before._replace(times=before.times + 1)}


def remove_denials(denials: Denials, authority: Authority) -> Denials:
    """Remove the denials of an authority that has accepted the VM since then.

    The attestation provider accepts the VM with each token. The vault does so with a
    release, which ends all failures of the key.
    """
    if all(DENIALS[code].by is not authority for code in denials):
        return denials
    return {
        code: denial
        for code, denial in denials.items()
        if DENIALS[code].by is not authority
    }


def count_repetitions(denials: Denials, code: str) -> int:
    """Count the denials that a denial with this code repeats, itself included.

    A clear denial repeats every other clear denial; an unclear one repeats only
    denials with the same code.
    """
    if not _is_clear(code):
        return denials[code].times if code in denials else 0
    return sum(denial.times for one, denial in denials.items() if _is_clear(one))


def is_confirmed(denials: Denials, code: str, boottime: float) -> bool:
    """Return whether an error with this code, counted already, confirms a denial."""
    if code not in DENIALS:
        return False
    if _is_clear(code):
        return count_repetitions(denials, code) >= _CLEAR_DENIALS_TO_CONFIRM
    return boottime >= _confirmable_at(denials, code)


def seconds_to_confirm(denials: Denials, code: str, boottime: float) -> float:
    """Return the seconds until a repetition confirms this denial.

    Infinite if the next attempt confirms the denial at any time, or never does.
    """
    if code not in DENIALS or _is_clear(code):
        return math.inf
    left = _confirmable_at(denials, code) - boottime
    return left if left > 0 else math.inf


def seconds_to_earliest_confirmation(
    denials: Denials, boottime: float, retry_in: float
) -> float:
    """Return the seconds until an attempt can confirm one of the denials.

    Args:
        denials: of the key.
        boottime: now.
        retry_in: the seconds until the next attempt.

    Returns:
        infinite if there are no denials.
    """
    seconds = [math.inf]
    for code in denials:
        left = seconds_to_confirm(denials, code, boottime)
        seconds.append(left if left < math.inf else retry_in)
    return min(seconds)


def _is_clear(code: str) -> bool:
    """Return whether the vault's words leave no doubt that the key is denied."""
    return DENIALS[code].confirmation is Confirmation.FRESH_TOKEN


def _confirmable_at(denials: Denials, code: str) -> float:
    """Return the boot time from which this denial confirms the first one."""
    denial = denials.get(code)
    return denial.first_at + REPEATED_AFTER_SECONDS if denial else math.inf
