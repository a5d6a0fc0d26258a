"""Notes of one job: findings for people that did not stop the job.

They travel to the agent in the result, and the agent logs each of them once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skragent.job import MAX_NOTE_CHARACTERS, MAX_NOTES

if TYPE_CHECKING:
    from collections.abc import Iterable


class Notes:
    """Collects notes, bounded in number and length; a note is kept once."""

    def __init__(self) -> None:
        self._texts: dict[str, None] = {}

    def add(self, about: str, texts: Iterable[str]) -> None:
        """Add notes about one setting or file."""
        for text in texts:
            if len(self._texts) < MAX_NOTES:
                note = f"{about}: {text}"
                self._texts[note[:MAX_NOTE_CHARACTERS]] = None

    def all(self) -> tuple[str, ...]:
        """Return the notes in the order in which they were added."""
        return tuple(self._texts)
