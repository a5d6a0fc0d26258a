"""Notes of the releaser, such as a root certificate that is skipped: logged once each.

Every job brings the same notes again. The journal has each of them once in a process's
life; the table of those that were logged is bounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from skragent.agent.redact import log_lines
from skragent.observe import Event, log

if TYPE_CHECKING:
    from collections.abc import Iterable

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
