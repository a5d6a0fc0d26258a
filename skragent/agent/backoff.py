"""How long to wait after a failure, and who waits: the only place with tenacity.

| failure                    | window, doubled by each one     | cap    |
|----------------------------|---------------------------------|--------|
| RETRY, REATTEST            | 1 s                             | 60 s   |
| 429 of a vault             | 10 s, and a tenth longer each   | 6 h    |
| DENIED, first              | CONFIRM_SECONDS                 |        |
| DENIED, later              | 60 s                            | 15 min |
| RETRY_SLOWLY, FATAL, first | CONFIRM_SECONDS                 |        |
| RETRY_SLOWLY, FATAL, later | 60 s                            | 15 min |
| AK renewal                 | 60 s                            | 1 h    |

A denial of a held key that counts only if it is repeated later (`skragent.denials`) is
asked about again when the repetition counts, and no later.

The wait is anywhere in the window (full jitter), so that a fleet that failed together
does not come back together. A Retry-After wins over the window, in both directions,
up to ten minutes; then chance only adds to it. One of less than a second, or of a past
date, says nothing: with `Retry-After: 0` we would turn in a tight circle.

A vault's 429 is another matter: nothing is broken, but a fleet stands in line for the
ten releases in 10 s of its vault, for hours if it is large. No agent knows how long the
line is. So each one waits a tenth of the time that it has waited already, as the sum of
such windows is ten times the last: nobody comes much more than a tenth later than it
could have, and the refusals grow with the logarithm of the fleet. With a window that
ends at a minute they grow with the fleet, and a vault that counts refused requests
against its limit would never let anybody through again; with doubled windows the vault
idles: a thousand agents then take 2.8 times as long as they must. The wait is near its
window, for the same reason: whoever draws a long one late comes last. `make fleet`
measures it. Where refused requests count, the first one is let through only when all
ask less than ten times in 10 s, at about ten times the age that the limit needs. With
longer windows that comes sooner, and elsewhere all come later: of a thousand agents
whose windows grow by half the last one comes 5.6 times as late as it must, instead of
9.9 times, but 1.8 times instead of 1.13 where refused requests do not count. A 429's
Retry-After is when the vault opens again, not when there is room for all: the longer
one wins.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import tenacity

from skragent.agent.failures import is_throttled, repetitions
from skragent.errors import AgentError, Disposition

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from skragent.agent.failures import Failures

MIN_RETRY_AFTER_SECONDS: Final = 1.0
MAX_RETRY_AFTER_SECONDS: Final = 600.0
RETRY_AFTER_SPREAD: Final = 0.1

# A first denial is asked about again soon: what was revoked must not be served long.
# And so is a first fault that a person must mend: one odd answer of a TPM may be the
# only one.
CONFIRM_SECONDS: Final = 3.0

# The window in which a vault counts; then a tenth more than before.
_LINE_SECONDS: Final = 10.0
_LINE_GROWTH: Final = 1.1
_LINE_SPREAD: Final = 0.3
# A vault that cannot release all keys once within their refresh has too many of them.
_MAX_LINE_SECONDS: Final = 6 * 3600.0

_LINE: Final = tenacity.wait_exponential(
    multiplier=_LINE_SECONDS, exp_base=_LINE_GROWTH, max=_MAX_LINE_SECONDS
)
_TRANSIENT: Final = tenacity.wait_exponential(multiplier=1, max=60)
_LASTING: Final = tenacity.wait_exponential(multiplier=60, max=15 * 60)
_RENEWAL: Final = tenacity.wait_exponential(multiplier=60, max=3600)

_NO_LOOP: Final = tenacity.Retrying()  # for who asks a strategy outside of one


def window_seconds(error: AgentError, failures: Failures) -> float:
    """Choose the longest wait after a failure.

    Args:
        error: the failure.
        failures: without a success in between, this one included.
    """
    if error.disposition in (Disposition.RETRY, Disposition.REATTEST):
        return _ask(_TRANSIENT, failures.total)
    if error.disposition is Disposition.DENIED:
        return lasting_window_seconds(repetitions(failures, error.code))
    return lasting_window_seconds(failures.slow)


def lasting_window_seconds(times: int) -> float:
    """Choose the longest wait after something that does not pass by itself.

    Args:
        times: that it happened without a success in between.
    """
    return CONFIRM_SECONDS if times <= 1 else _ask(_LASTING, times - 1)


def wait_seconds(
    error: AgentError,
    failures: Failures,
    *,
    jitter: float,
    is_vault: bool = True,
    confirms_in: float = math.inf,
) -> float:
    """Choose the wait after a failure.

    Args:
        error: the failure.
        failures: without a success in between, this one included.
        jitter: chance, from 0 to 1.
        is_vault: whether a vault answered. IMDS and the provider have room again soon
            after a 429, and a vault has not.
        confirms_in: seconds until a repetition of this denial counts.
    """
    asked = _asked_seconds(error, jitter)
    if is_vault and is_throttled(error):
        spread = _LINE_SPREAD * (2 * jitter - 1)
        return max(asked, _ask(_LINE, failures.throttles) * (1 + spread))
    if asked:
        return asked
    window = window_seconds(error, failures)
    return min(window * jitter, confirms_in + CONFIRM_SECONDS * jitter)


def renewal_seconds(error: AgentError, *, failures: int, jitter: float) -> float:
    """Choose the wait after a renewal of the AK certificate that failed.

    In the later half of its window: nobody waits for it, and THIM may be busy.
    """
    seconds = _ask(_RENEWAL, failures) * (1 + jitter) / 2
    return max(seconds, _asked_seconds(error, jitter))


def _asked_seconds(error: AgentError, jitter: float) -> float:
    """Tell how long the other side wants us to wait; 0 where it does not say."""
    if error.retry_after is None or not is_asked_to_wait(error):
        return 0.0
    asked = error.retry_after * (1 + RETRY_AFTER_SPREAD * jitter)
    return min(asked, MAX_RETRY_AFTER_SECONDS)


def is_asked_to_wait(error: AgentError) -> bool:
    """Tell whether the other side said when it wants to be asked again."""
    asked = error.retry_after
    return asked is not None and asked >= MIN_RETRY_AFTER_SECONDS


def retrying(
    *,
    wait: Callable[[AgentError], float],
    sleep: Callable[[float], Awaitable[None]],
    is_stopping: Callable[[], bool],
    is_final: Callable[[AgentError], bool],
) -> tenacity.AsyncRetrying:
    """Build the loop that repeats a failing step until it succeeds.

    Final errors, foreign exceptions and shutdown end it, with the error itself.

    Args:
        wait: the seconds to wait after an error.
        sleep: waits that long, or until shutdown.
        is_stopping: whether to give up instead.
        is_final: whether an error ends the agent.
    """
    return tenacity.AsyncRetrying(
        wait=lambda state: wait(_error_of(state)),
        sleep=sleep,
        stop=lambda _state: is_stopping(),
        retry=tenacity.retry_if_exception(
            lambda error: isinstance(error, AgentError) and not is_final(error)
        ),
        reraise=True,
    )


def _error_of(state: tenacity.RetryCallState) -> AgentError:
    error = state.outcome.exception() if state.outcome else None
    if not isinstance(error, AgentError):
        raise TypeError("only our own errors are waited for")
    return error


def _ask(strategy: tenacity.wait_exponential, failures: int) -> float:
    """Ask a strategy of tenacity outside its loop."""
    state = tenacity.RetryCallState(_NO_LOOP, fn=None, args=(), kwargs={})
    state.attempt_number = max(1, failures)
    return strategy(state)
