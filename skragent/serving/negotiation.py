"""Which form of a key a caller wants: Accept, as RFC 9110 §12.5.1 has it.

Pure. Callers that name no form get the JWK, or the first that there is.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final, NamedTuple

from skragent.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Collection

    from skragent.job import Form

NOT_ACCEPTABLE: Final = 406

# In the order of our own preference.
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
_WILDCARDS: Final = ("application/*", "*/*")  # the more specific one first

# Nobody has more to say; reading more takes time from everybody else.
MAX_RANGES: Final = 32


class Choice(NamedTuple):
    """A form, and what to call it: a JWK is JSON to those who asked for JSON."""

    form: Form
    media_type: str


class _Range(NamedTuple):
    quality: float
    place: int  # in the header: the first one wins among equals


def choose_form(accept: str, available: Collection[Form]) -> Choice:
    """Choose the form that the caller likes best.

    Raises:
        RequestError: serve.not_acceptable where nothing fits; serve.bad_request where
            the header is too long to be meant.
    """
    ranges = _parse_accept(accept or "*/*")
    best: tuple[float, int] = (0.0, 0)
    choice = None
    for media, form in _FORMS.items():
        found = next((ranges[m] for m in (media, *_WILDCARDS) if m in ranges), None)
        if form not in available or found is None:
            continue
        if found.quality > 0 and (found.quality, -found.place) > best:
            best, choice = (found.quality, -found.place), Choice(form, media)
    if choice is None:
        raise RequestError(
            "this key has no such form",
            code="serve.not_acceptable",
            status=NOT_ACCEPTABLE,
        )
    return choice


@functools.lru_cache(maxsize=64)
def _parse_accept(accept: str) -> dict[str, _Range]:
    """Return the media ranges; of one that is there twice, the first."""
    entries = accept.split(",", MAX_RANGES)
    if len(entries) > MAX_RANGES:
        raise RequestError(f"Accept has more than {MAX_RANGES} entries")
    ranges: dict[str, _Range] = {}
    for place, entry in enumerate(entries):
        media, *parameters = (part.strip().lower() for part in entry.split(";"))
        if media:
            ranges.setdefault(media, _Range(_quality(parameters), place))
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
