"""Checks of a request: method, body, query, Accept and If-None-Match. Pure."""

from __future__ import annotations

import functools
import re
import urllib.parse
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

from skragent.config_rules import shown
from skragent.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Collection

    from skragent.errors import ServeError
    from skragent.job import Form
    from skragent.serving.http.request import Request
    from skragent.serving.peers import Peer

READ: Final = ("GET", "HEAD")  # RFC 9110 §9.3.2
MAX_WAIT_SECONDS: Final = 300.0

# In the order of preference if the caller has none.
MEDIA_TYPES: Final[dict[Form, str]] = {
    "jwk": "application/jwk+json",
    "pem": "application/x-pem-file",
    "der": "application/pkcs8",
    "raw": "application/octet-stream",
}
_FORMS: Final[dict[str, Form]] = {
    **{media: form for form, media in MEDIA_TYPES.items()},
    "application/json": "jwk",
}
_WILDCARDS: Final = ("application/*", "*/*")  # the more specific range first

# Longer lists are rejected, because their evaluation delays other callers.
MAX_RANGES: Final = 32
MAX_TAGS: Final = 32
_MAX_PARAMETERS: Final = 8

_SECONDS: Final = re.compile(r"[0-9]{1,4}(\.[0-9]{1,6})?")


class Choice(NamedTuple):
    """A form and its media type: a JWK is also available as application/json."""

    form: Form
    media_type: str


class _Range(NamedTuple):
    quality: float
    position: int  # in the header: the first of equal ranges wins


def check_request(
    request: Request, methods: tuple[str, ...], *, accepts_body: bool = False
) -> None:
    """Check the method and the body of a request; no methods: any method.

    Raises:
        RequestError: serve.method or serve.body
    """
    if methods and request.method not in methods:
        raise RequestError(
            f"the method must be {' or '.join(methods)}",
            code="serve.method",
            status=HTTPStatus.METHOD_NOT_ALLOWED,
        )
    if request.has_body and not accepts_body:
        raise RequestError("this request must not have a body", code="serve.body")


def method_headers(error: ServeError, methods: tuple[str, ...]) -> dict[str, str]:
    """Return the Allow header for a wrong method: RFC 9110 §15.5.6."""
    if error.status != HTTPStatus.METHOD_NOT_ALLOWED:
        return {}
    return {"Allow": ", ".join(methods)}


def not_found(request: Request, peer: Peer) -> NoReturn:  # noqa: ARG001 - a handler's
    """Reject an unknown path."""
    raise RequestError(
        "there is no resource at this path",
        code="serve.not_found",
        status=HTTPStatus.NOT_FOUND,
    )


def parse_query(request: Request, known: tuple[str, ...]) -> dict[str, str]:
    """Parse the query. Unknown parameters are an error, and are not ignored.

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
        raise RequestError("the query is malformed or too long") from error
    found = dict(pairs)
    unknown = [name for name in found if name not in known]
    if unknown:
        supported = f"takes {' and '.join(known)}" if known else "takes none"
        raise RequestError(
            f"unknown parameter `{shown(unknown[0])}`: this resource {supported}"
        )
    if len(found) != len(pairs):
        raise RequestError("the query has a parameter twice")
    return found


def parse_wait(text: str | None) -> float:
    """Parse the parameter `wait`, in seconds. Without the parameter it is 0.

    Raises:
        RequestError: serve.bad_request
    """
    if text is None:
        return 0.0
    seconds = float(text) if _SECONDS.fullmatch(text) else -1.0
    if not 0 <= seconds <= MAX_WAIT_SECONDS:
        raise RequestError(f"wait must be a number from 0 to {MAX_WAIT_SECONDS:.0f}")
    return seconds


def matches_tag(if_none_match: str, tag: str) -> bool:
    """Compare entity tags as RFC 9110 §13.1.2 does: a list of tags, or a star.

    Raises:
        RequestError: serve.bad_request: the list is too long.
    """
    if not if_none_match:
        return False
    entries = if_none_match.split(",", MAX_TAGS)
    if len(entries) > MAX_TAGS:
        raise RequestError(f"If-None-Match has more than {MAX_TAGS} entries")
    tags = [entry.strip().removeprefix("W/") for entry in entries]
    return f'"{tag}"' in tags or tags == ["*"]


def choose_form(accept: str, available: Collection[Form]) -> Choice:
    """Return the form that the caller prefers: RFC 9110 §12.5.1.

    A caller without a preference gets the JWK, or the first form that is available.

    Raises:
        RequestError: serve.not_acceptable if the key has no accepted form;
            serve.bad_request if the header is too long.
    """
    ranges = _parse_accept(accept or "*/*")
    best: tuple[float, int] = (0.0, 0)
    choice = None
    for media, form in _FORMS.items():
        found = next((ranges[m] for m in (media, *_WILDCARDS) if m in ranges), None)
        if form not in available or found is None:
            continue
        if found.quality > 0 and (found.quality, -found.position) > best:
            best, choice = (found.quality, -found.position), Choice(form, media)
    if choice is None:
        raise RequestError(
            "the key has no such form",
            code="serve.not_acceptable",
            status=HTTPStatus.NOT_ACCEPTABLE,
        )
    return choice


@functools.lru_cache(maxsize=64)
def _parse_accept(accept: str) -> dict[str, _Range]:
    """Return the media ranges. If a range occurs twice, the first one counts."""
    entries = accept.split(",", MAX_RANGES)
    if len(entries) > MAX_RANGES:
        raise RequestError(f"Accept has more than {MAX_RANGES} entries")
    ranges: dict[str, _Range] = {}
    for position, entry in enumerate(entries):
        media, *parameters = (part.strip().lower() for part in entry.split(";"))
        if media:
            ranges.setdefault(media, _Range(_quality(parameters), position))
    return ranges


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                quality = float(value)
            except ValueError:
                return 0.0
            return quality if 0.0 <= quality <= 1.0 else 0.0
    return 1.0
