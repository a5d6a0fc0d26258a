"""Name this VM's clock as the cause of a failure, by the `Date` of Azure's responses.

Pure. A wrong clock shows as another fault: a certificate that is not valid yet, a token
that has expired, evidence that the provider refuses. `Date` is RFC 9110 §6.6.1. It only
changes messages, because responses of IMDS are not authenticated.
"""

from __future__ import annotations

import email.utils
from datetime import UTC
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skragent.job import Failure

# Entra ID and the attestation provider accept this difference.
MAX_SKEW_SECONDS: Final = 300.0

# Failures that a wrong clock causes.
_BY_CLOCK: Final = frozenset(
    {
        *("transport.tls", "endorsements.lifetime", "identity.refused"),
        *("identity.denied", "token.refused", "token.expired", "token.lifetime"),
        *("release.unverified", "release.chain"),
    }
)
_UNITS: Final = ((86400, "days"), (3600, "hours"), (60, "minutes"))


def explain_by_clock(failure: Failure, dates: Mapping[str, str], now: float) -> Failure:
    """Return the failure with the clock's error, if a wrong clock can be its cause.

    Args:
        failure: of a job or of a key.
        dates: the latest `Date` header of each origin.
        now: this VM's wall time, in seconds since 1970.
    """
    if failure.code not in _BY_CLOCK:
        return failure
    skew = describe_skew(dates, now)
    if not skew:
        return failure
    return msgspec.structs.replace(
        failure,
        message=f"{failure.message.removesuffix('.')}; {skew}",
        hint="Set this VM's clock: `timedatectl` shows it, and `chronyc tracking`"
        " shows its source. Then `skragent refresh`.",
    )


def describe_skew(dates: Mapping[str, str], now: float) -> str:
    """Return by how much this VM's clock differs from Azure's; empty if it does not.

    All origins must say the same: if one `Date` agrees with this VM, or some are before
    and some after its time, a service's clock or a cache is wrong.
    """
    clocks = {origin: _parse(text) for origin, text in dates.items()}
    skews = {origin: now - at for origin, at in clocks.items() if at is not None}
    is_ahead = all(skew >= MAX_SKEW_SECONDS for skew in skews.values())
    is_behind = all(skew <= -MAX_SKEW_SECONDS for skew in skews.values())
    if not skews or not (is_ahead or is_behind):
        return ""
    origin, skew = min(skews.items(), key=lambda item: abs(item[1]))
    side = "ahead of" if is_ahead else "behind"
    return f"this VM's clock is {_span(abs(skew))} {side} that of {origin}"


def _parse(text: str) -> float | None:
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    if moment.tzinfo is None:  # "-0000"
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp()


def _span(seconds: float) -> str:
    size, unit = next(u for u in _UNITS if seconds >= u[0])
    count = round(seconds / size)
    return f"{count} {unit if count > 1 else unit[:-1]}"
