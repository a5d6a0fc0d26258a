"""When: pure functions of the token's life and of boot time.

Times are seconds on CLOCK_BOOTTIME unless they say otherwise; chance comes in as an
argument. How long to wait after a failure is `backoff`'s.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections import Counter
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

import tenacity

from skragent.denials import DENIALS, REPEATED_AFTER_SECONDS, Confirmation
from skragent.errors import AgentError, Disposition

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from skragent.agent.key_records import KeyRecord
    from skragent.denials import Authority
    from skragent.job import KeyRequest

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
