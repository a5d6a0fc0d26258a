"""What stands behind the question mark, and in conditional headers. Pure."""

from __future__ import annotations

import re
import urllib.parse
from typing import TYPE_CHECKING, Final

from skragent.config_rules import shown
from skragent.errors import RequestError
from skragent.serving.http.long_poll import MAX_WAIT_SECONDS

if TYPE_CHECKING:
    from skragent.serving.http.request import Request

# Nobody has more to say; reading more takes time from everybody else.
_MAX_PARAMETERS: Final = 8
MAX_TAGS: Final = 32

_SECONDS: Final = re.compile(r"[0-9]{1,4}(\.[0-9]{1,6})?")


def parse_query(request: Request, known: tuple[str, ...]) -> dict[str, str]:
    """Read the query; a parameter that would be ignored is refused.

    Raises:
        RequestError: serve.bad_request
    """
    try:
        pairs = urllib.parse.parse_qsl(
            request.query,
            keep_blank_values=True,
            strict_parsing=bool(request.query),
            max_num_fields=_MAX_PARAMETERS,
        )
    except ValueError as error:
        raise RequestError("the query does not parse, or has too much in it") from error
    found = dict(pairs)
    unknown = [name for name in found if name not in known]
    if unknown:
        takes = f"takes {' and '.join(known)}" if known else "takes none"
        raise RequestError(f"there is no parameter `{shown(unknown[0])}`: this {takes}")
    if len(found) != len(pairs):
        raise RequestError("the query has a parameter twice")
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
    """Compare as RFC 9110 §13.1.2 does: a list of tags, weak or not, or a star.

    Raises:
        RequestError: serve.bad_request: the list is too long to be meant.
    """
    if not if_none_match:
        return False
    entries = if_none_match.split(",", MAX_TAGS)
    if len(entries) > MAX_TAGS:
        raise RequestError(f"If-None-Match has more than {MAX_TAGS} entries")
    tags = [one.strip().removeprefix("W/") for one in entries]
    return f'"{tag}"' in tags or tags == ["*"]
