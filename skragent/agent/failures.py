"""What failed since the last success, of one key or of jobs as a whole.

Pure. Whether an error is a denial, and how a denial is confirmed, is in the one table
of `skragent.denials`; here the table is applied to what happened, by boot time.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from skragent.denials import DENIALS, REPEATED_AFTER_SECONDS, Confirmation
from skragent.errors import Disposition

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skragent.denials import Authority
    from skragent.errors import AgentError

# The denial in clear words that a second one, with a fresh token, must confirm.
_CLEAR_DENIALS_TO_CONFIRM: Final = 2

# What only a person can mend, probably: the backoff is long, and there is an alarm.
SLOW: Final = (Disposition.RETRY_SLOWLY, Disposition.FATAL)

# With these, a person must probably act: they do not pass by themselves.
NEEDS_ATTENTION: Final = (*SLOW, Disposition.DENIED)


class Denied(NamedTuple):
    """Denials with one code."""

    first_at: float  # boot time
    times: int


@dataclass(frozen=True, slots=True)
class Failures:
    """Counts since the last success."""

    total: int = 0
    slow: int = 0  # with a disposition of SLOW
    throttles: int = 0  # 429 of a vault
    denials: Mapping[str, Denied] = field(default_factory=dict)  # by code

    def __bool__(self) -> bool:
        return self.total > 0


NONE: Final = Failures()


def is_throttled(error: AgentError) -> bool:
    """Return whether the other side had too many requests: 429."""
    return error.code == "transport.throttled"


def counted(failures: Failures, error: AgentError, boottime: float) -> Failures:
    """Add one failure. A fault between two denials confirms and cancels nothing."""
    denials = failures.denials
    if error.code in DENIALS:
        before = denials.get(error.code, Denied(boottime, 0))
        denials = {**denials, error.code: before._replace(times=before.times + 1)}
    return dataclasses.replace(
        failures,
        total=failures.total + 1,
        slow=failures.slow + (error.disposition in SLOW),
        throttles=failures.throttles + is_throttled(error),
        denials=denials,
    )


def repetitions(failures: Failures, code: str) -> int:
    """Count the denials that one with this code repeats, itself included.

    Any clear denial repeats any other; an unclear one only its own kind.
    """
    if not _is_clear(code):
        return failures.denials[code].times if code in failures.denials else 0
    return sum(
        denied.times for code, denied in failures.denials.items() if _is_clear(code)
    )


def accepted(failures: Failures, authority: Authority) -> Failures:
    """Take back an authority's denials: it said yes since then.

    The provider says yes with each token; the vault with a release, after which there
    are no failures at all.
    """
    denials = {
        code: denied
        for code, denied in failures.denials.items()
        if DENIALS[code].by is not authority
    }
    if len(denials) == len(failures.denials):
        return failures
    return dataclasses.replace(failures, denials=denials)


def is_confirmed(failures: Failures, error: AgentError, boottime: float) -> bool:
    """Return whether this error, which is counted already, confirms a denial."""
    if error.code not in DENIALS:
        return False
    if _is_clear(error.code):
        return repetitions(failures, error.code) >= _CLEAR_DENIALS_TO_CONFIRM
    return boottime >= _counts_from(failures, error.code)


def seconds_to_confirm(failures: Failures, error: AgentError, boottime: float) -> float:
    """Return when a repetition of this denial would confirm it; infinite if never.

    Only for denials that must be repeated later: the others are confirmed as soon as
    the next attempt says the same.
    """
    if error.code not in DENIALS or _is_clear(error.code):
        return math.inf
    left = _counts_from(failures, error.code) - boottime
    return left if left > 0 else math.inf


def _is_clear(code: str) -> bool:
    """Return whether a denial says for certain that the key is not to be held."""
    return DENIALS[code].confirmation is Confirmation.FRESH_TOKEN


def _counts_from(failures: Failures, code: str) -> float:
    """Return the boot time from which this denial repeats the first one."""
    denied = failures.denials.get(code)
    return denied.first_at + REPEATED_AFTER_SECONDS if denied else math.inf
