"""What releasers say on stderr: the same words once, then counted.

A releaser that crashes says where, in a new process at each attempt. Its words are
logged in full for the first time; after that one line has the last of them and how
often they came.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

from skragent.observe import INTERNAL_ERRORS, Event

if TYPE_CHECKING:
    from collections.abc import Sequence

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
