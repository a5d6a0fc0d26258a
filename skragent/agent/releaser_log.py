"""Log what releasers write to stderr, and the notes in their results, once each.

A releaser that crashes writes the same traceback at each attempt. It is logged in full
once; then one line has its last line and the number of repetitions.

Text is redacted before it is logged. The releaser does not write keys or tokens, but a
library below it may, in a warning or a traceback, and many people can read a journal.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

from skragent.observe import INTERNAL_ERRORS, Event, log

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from skragent.observe import InternalErrors

MAX_LINE_CHARACTERS: Final = 1000

# The header of a JWT begins with `{"`, so its Base64 with `eyJ`. Every other long run
# of Base64 (both alphabets, so hexadecimal too) may be a key. That masks long paths,
# except in a traceback, where a path ends in `.py`.
_JWT: Final = re.compile(r"eyJ[A-Za-z0-9_=-]{5,}(?:\.[A-Za-z0-9_=-]*)*")
_LONG_RUN: Final = re.compile(r"[A-Za-z0-9+/_-]{40,}={0,2}")
_TRACEBACK: Final = re.compile(r'( *File "/[^"]*\.py", line \d+, in )(.*)')
_CONTROL: Final = re.compile(r"[^\x20-\x7e]")

# Addresses, process ids and times differ in each repetition. In a traceback, the number
# of a line distinguishes one fault from another.
_NUMBERS: Final = re.compile(r"0x[0-9a-f]+|\d+")
_FRAME: Final = re.compile(r'\s*File "')

_MAX_NOTES: Final = 256


def redact(text: str) -> str:
    """Mask what looks like a token or a key, in one line."""
    if place := _TRACEBACK.fullmatch(text):
        return place[1] + redact(place[2])
    text = _JWT.sub("[token]", text)
    return _LONG_RUN.sub(_mask, text)


def log_lines(raw: bytes) -> list[str]:
    """Split a releaser's output into redacted lines."""
    return [
        _CONTROL.sub("?", redact(line.expandtabs()))[:MAX_LINE_CHARACTERS]
        for line in raw.decode("utf-8", "replace").splitlines()
        if line.strip()
    ]


class StderrLog:
    """Finds repetitions in the output of releasers that failed."""

    def __init__(self, errors: InternalErrors = INTERNAL_ERRORS) -> None:
        self._errors = errors

    def new_lines(self, lines: Sequence[str], status: int) -> list[str]:
        """Return the lines of one releaser's output that must be logged.

        Args:
            lines: its output, redacted.
            status: its exit status.
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


class NoteLog:
    """Logs notes of the releaser, such as that a root certificate is skipped.

    Every job repeats the notes. The journal has each note once in the life of the
    agent's process. The number of notes is bounded.
    """

    def __init__(self) -> None:
        self._logged: set[str] = set()

    def add(self, notes: Iterable[str]) -> None:
        """Log the notes that are new."""
        for note in notes:
            if note not in self._logged and len(self._logged) < _MAX_NOTES:
                self._logged.add(note)
                log(Event.NOTE, " ".join(log_lines(note.encode(errors="replace"))))


def _without_numbers(line: str) -> str:
    return line if _FRAME.match(line) else _NUMBERS.sub("#", line)


def _mask(match: re.Match[str]) -> str:
    return f"[{len(match.group())} characters]"
