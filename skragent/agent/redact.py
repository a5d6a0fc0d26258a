"""What of a child's stderr may reach the journal.

A second line of defence: the releaser does not print keys or tokens. A library below
it could, in a warning or a traceback, and a journal is read by many.
"""

from __future__ import annotations

import re
from typing import Final

# A JWT's header always begins with `{"`; then anything long that could be base64 (both
# alphabets, so hexadecimal too). That masks long paths as well, which costs nothing
# but in a traceback: there a path ends in `.py`, and is kept.
_JWT: Final = re.compile(r"eyJ[A-Za-z0-9_=-]{5,}(?:\.[A-Za-z0-9_=-]*)*")
_LONG_RUN: Final = re.compile(r"[A-Za-z0-9+/_-]{40,}={0,2}")
_TRACEBACK: Final = re.compile(r'( *File "/[^"]*\.py", line \d+, in )(.*)')
_CONTROL: Final = re.compile(r"[^\x20-\x7e]")

MAX_LINE_CHARACTERS: Final = 1000


def redact(text: str) -> str:
    """Mask what looks like a token or a key, in one line."""
    if place := _TRACEBACK.fullmatch(text):
        return place[1] + redact(place[2])
    text = _JWT.sub("[token]", text)
    return _LONG_RUN.sub(_mask, text)


def log_lines(raw: bytes) -> list[str]:
    """Split a child's output into lines that are fit to log."""
    return [
        _CONTROL.sub("?", redact(line.expandtabs()))[:MAX_LINE_CHARACTERS]
        for line in raw.decode("utf-8", "replace").splitlines()
        if line.strip()
    ]


def _mask(match: re.Match[str]) -> str:
    return f"[{len(match.group())} characters]"
