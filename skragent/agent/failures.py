"""What failed since the last success, of one key or of jobs as a whole.

Pure. Whether an error is a denial, and how a denial is confirmed, is in the one table
of `skragent.denials`; here the table is applied to what happened, by boot time.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from skragent.denials import DENIALS, REPEATED_AFTER_SECONDS, Confirmation
from skragent.errors import Disposition

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skragent.denials import Authority
    from skragent.errors import SkrAgentError

# The denial in clear words that a second one, with a fresh token, must confirm.
_CLEAR_DENIALS_TO_CONFIRM: Final = 2

# What only a person can mend, probably: the backoff is long, and there is an alarm.
SLOW: Final = (Disposition.RETRY_SLOWLY, Disposition.FATAL)

# With these, a person must probably act: they do not pass by themselves.
NEEDS_ATTENTION: Final = (*SLOW, Disposition.DENIED)


@dataclass(frozen=True, slots=True)
class Failures:
    """Counts since the last success."""

    total: int = 0
    slow: int = 0  # with a disposition of SLOW
    throttles: int = 0  # 429 of a vault
    denials: int = 0
    clear_denials: int = 0  # of Confirmation.FRESH_TOKEN
    # Boot time of the first denial with each code: only the same one repeats it.
    first_denials: Mapping[str, float] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.total > 0


NONE: Final = Failures()


def is_throttled(error: SkrAgentError) -> bool:
    """Return whether the other side had too many requests: 429."""
    return error.code == "transport.throttled"


def counted(failures: Failures, error: SkrAgentError, boottime: float) -> Failures:
    """Add one failure. A fault between two denials confirms and cancels nothing."""
    denial = DENIALS.get(error.code)
    is_denial = denial is not None
    is_clear = denial is not None and denial.confirmation is Confirmation.FRESH_TOKEN
    return dataclasses.replace(
        failures,
        total=failures.total + 1,
        slow=failures.slow + (error.disposition in SLOW),
        throttles=failures.throttles + is_throttled(error),
        denials=failures.denials + is_denial,
        clear_denials=failures.clear_denials + is_clear,
        first_denials={error.code: boottime, **failures.first_denials}
        if is_denial
        else failures.first_denials,
    )


def accepted(failures: Failures, authority: Authority) -> Failures:
    """Take back an authority's denials that must be repeated: it said yes since then.

    The provider says yes with each token; the vault with a release, after which there
    are no failures at all.
    """
    first_denials = {
        code: at
        for code, at in failures.first_denials.items()
        if DENIALS[code].by is not authority
    }
    if len(first_denials) == len(failures.first_denials):
        return failures
    return dataclasses.replace(failures, first_denials=first_denials)


def is_confirmed(failures: Failures, error: SkrAgentError, boottime: float) -> bool:
    """Return whether this error, which is counted already, confirms a denial."""
    denial = DENIALS.get(error.code)
    if denial is None:
        return False
    if denial.confirmation is Confirmation.FRESH_TOKEN:
        return failures.clear_denials >= _CLEAR_DENIALS_TO_CONFIRM
    return boottime >= _counts_from(failures, error)


def seconds_to_confirm(
    failures: Failures, error: SkrAgentError, boottime: float
) -> float:
    """Return when a repetition of this denial would confirm it; infinite if never.

    Only for denials that must be repeated later: the others are confirmed as soon as
    the next attempt says the same.
    """
    denial = DENIALS.get(error.code)
    if denial is None or denial.confirmation is not Confirmation.REPEATED:
        return math.inf
    left = _counts_from(failures, error) - boottime
    return left if left > 0 else math.inf


def _counts_from(failures: Failures, error: SkrAgentError) -> float:
    """Return the boot time from which this denial repeats the first one."""
    first = failures.first_denials.get(error.code, math.inf)
    return first + REPEATED_AFTER_SECONDS
