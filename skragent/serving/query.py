"""What stands behind the question mark, and in conditional headers. Pure."""

from __future__ import annotations

import re
import urllib.parse
from typing import TYPE_CHECKING, Final

from skragent.errors import RequestError
from skragent.serving.park import MAX_WAIT_SECONDS

if TYPE_CHECKING:
    from skragent.serving.request import Request

_SECONDS: Final = re.compile(r"[0-9]{1,4}(\.[0-9]{1,6})?")


def parse_query(request: Request, known: tuple[str, ...]) -> dict[str, str]:
    """Read the query; a parameter that would be ignored is refused.

    Raises:
        RequestError: serve.bad_request
    """
    try:
        pairs = urllib.parse.parse_qsl(
            request.query, keep_blank_values=True, strict_parsing=bool(request.query)
        )
    except ValueError as error:
        raise RequestError("the query does not parse") from error
    found = dict(pairs)
    if len(found) != len(pairs) or not found.keys() <= set(known):
        raise RequestError("the query has a parameter that is unknown or given twice")
    return found


def parse_wait(text: str | None) -> float:
    """Read `wait`, in seconds; 0 where it is not given.

    Raises:
        RequestError: serve.bad_request
    """
    if text is None:
        return 0.0
    seconds = float(text) if _SECONDS.fullmatch(text) else -1.0
    if not 0 <= seconds <= MAX_WAIT_SECONDS:
        raise RequestError(f"wait is a number from 0 to {MAX_WAIT_SECONDS:.0f}")
    return seconds


def is_known_tag(if_none_match: str, tag: str) -> bool:
    """Compare as RFC 9110 §13.1.2 does: a list of tags, weak or not, or a star."""
    if not if_none_match:
        return False
    tags = [one.strip().removeprefix("W/") for one in if_none_match.split(",")]
    return f'"{tag}"' in tags or tags == ["*"]
