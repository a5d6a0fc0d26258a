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
    confirmation = DENIALS.get(error.code)
    is_denial = confirmation is not None
    return dataclasses.replace(
        failures,
        total=failures.total + 1,
        slow=failures.slow + (error.disposition in SLOW),
        throttles=failures.throttles + is_throttled(error),
        denials=failures.denials + is_denial,
        clear_denials=failures.clear_denials
        + (confirmation is Confirmation.FRESH_TOKEN),
        first_denials={error.code: boottime, **failures.first_denials}
        if is_denial
        else failures.first_denials,
    )


def is_confirmed(failures: Failures, error: SkrAgentError, boottime: float) -> bool:
    """Return whether this error, which is counted already, confirms a denial."""
    confirmation = DENIALS.get(error.code)
    if confirmation is Confirmation.FRESH_TOKEN:
        return failures.clear_denials >= _CLEAR_DENIALS_TO_CONFIRM
    if confirmation is Confirmation.REPEATED:
        return boottime >= _counts_from(failures, error)
    return False


def seconds_to_confirm(
    failures: Failures, error: SkrAgentError, boottime: float
) -> float:
    """Return when a repetition of this denial would confirm it; infinite if never.

    Only for denials that must be repeated later: the others are confirmed as soon as
    the next attempt says the same.
    """
    if DENIALS.get(error.code) is not Confirmation.REPEATED:
        return math.inf
    left = _counts_from(failures, error) - boottime
    return left if left > 0 else math.inf


def _counts_from(failures: Failures, error: SkrAgentError) -> float:
    """Return the boot time from which this denial repeats the first one."""
    first = failures.first_denials.get(error.code, math.inf)
    return first + REPEATED_AFTER_SECONDS
