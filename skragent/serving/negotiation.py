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
_ANYTHING: Final = ("*/*", "application/*")


class Choice(NamedTuple):
    """A form, and what to call it: a JWK is JSON to those who asked for JSON."""

    form: Form
    media_type: str


class _Range(NamedTuple):
    media: str
    quality: float


def choose_form(accept: str, available: Collection[Form]) -> Choice:
    """Choose the form that the caller likes best.

    Raises:
        RequestError: serve.not_acceptable where nothing fits.
    """
    for media, quality in _parse_accept(accept or "*/*"):
        if quality <= 0:
            break
        if media in _ANYTHING:
            for form, media_type in MEDIA_TYPES.items():
                if form in available:
                    return Choice(form, media_type)
        elif media in _FORMS and _FORMS[media] in available:
            return Choice(_FORMS[media], media)
    raise RequestError(
        "this key has no such form",
        code="serve.not_acceptable",
        status=NOT_ACCEPTABLE,
    )


@functools.lru_cache(maxsize=64)
def _parse_accept(accept: str) -> tuple[_Range, ...]:
    """Return the media ranges, the best first; equals stay in their order."""
    ranges = []
    for entry in accept.split(","):
        media, *parameters = (part.strip().lower() for part in entry.split(";"))
        if media:
            ranges.append(_Range(media, _quality(parameters)))
    return tuple(sorted(ranges, key=lambda one: one.quality, reverse=True))


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
