"""What releasers say on stderr: the same words once, then counted.

A releaser that crashes says where, in a new process at each attempt. Its words are
logged in full for the first time; after that one line has the last of them and how
often they came.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

from skragent.observe import INTERNAL_ERRORS, Event, log

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from skragent.observe import InternalErrors

# Addresses, process ids and times differ each time. The number of a line in a traceback
# is what tells one place from another.
_NUMBERS: Final = re.compile(r"0x[0-9a-f]+|\d+")
_FRAME: Final = re.compile(r'\s*File "')


class ReleaserOutput:
    """Folds the output of releasers that failed."""

    def __init__(self, errors: InternalErrors = INTERNAL_ERRORS) -> None:
        self._errors = errors

    def fold(self, lines: Sequence[str], status: int) -> list[str]:
        """Give the lines that are worth logging of one releaser's output.

        Args:
            lines: its output, fit to log.
            status: it exited with.
        """
        if status == os.EX_SOFTWARE:
            self._errors.count(Event.RELEASER_SAID.name.lower())
        if not lines:
            return []
        seen = self._errors.note(tuple(map(_without_numbers, lines)))
        if seen.is_first:
            return list(lines)
        if not seen.is_due:
            return []
        return [f"{lines[-1]} (as before, {seen.times} times)"]


def _without_numbers(line: str) -> str:
    return line if _FRAME.match(line) else _NUMBERS.sub("#", line)


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


_MAX_REMEMBERED: Final = 256


class NoteLog:
    """Logs notes that it has not logged before."""

    def __init__(self) -> None:
        self._logged: set[str] = set()

    def add(self, notes: Iterable[str]) -> None:
        """Log those of these notes that are new, as long as there is room for them."""
        for note in notes:
            if note not in self._logged and len(self._logged) < _MAX_REMEMBERED:
                self._logged.add(note)
                # Cleaned like other output of the releaser, and one line each.
                log(Event.NOTE, " ".join(log_lines(note.encode(errors="replace"))))
