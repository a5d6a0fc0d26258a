"""Limit the log of unexpected errors: one traceback per place, then counts.

A local user with a request that triggers a bug must not be able to fill the journal. So
a process logs a traceback once for each place and type of exception. It counts later
ones, and logs one line with the count at 2, 4, 8 and so on, and else at most once a
minute.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from skragent.observe.names import INTERNAL_ERROR_EVENTS, OTHER_EVENT, Event
from skragent.tracebacks import describe, place_of

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

MAX_KINDS: Final = 64
_LINE_SECONDS: Final = 60.0
# For all kinds beyond MAX_KINDS.
_FURTHER: Final = "further"

_LABELS: Final = {event.message_id: event.name.lower() for event in Event}


class Occurrence(NamedTuple):
    """One internal error, as the table has counted it."""

    times: int  # occurrences of this kind, including this one
    is_first: bool  # log the traceback
    is_due: bool  # log one line with the count


class InternalErrors:
    """The bounded table of one process.

    Args:
        monotonic: the clock for the lines.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self.counts: Counter[str] = Counter()
        self._counts_by_kind: dict[Hashable, int] = {}
        self._logged_at: dict[Hashable, float] = {}
        self.clear()

    def clear(self) -> None:
        """Empty the table."""
        self.counts.clear()
        self.counts.update(dict.fromkeys(INTERNAL_ERROR_EVENTS, 0))
        self._counts_by_kind.clear()
        self._logged_at.clear()

    def count(self, event: str) -> None:
        """Count an internal error for the metric, by its event."""
        self.counts[event if event in self.counts else OTHER_EVENT] += 1

    def note(self, kind: Hashable) -> Occurrence:
        """Count one internal error of this kind; return how to log it."""
        is_known = kind in self._counts_by_kind
        if not is_known and len(self._counts_by_kind) >= MAX_KINDS:
            kind, is_known = _FURTHER, True
        count = self._counts_by_kind.get(kind, 0) + 1
        self._counts_by_kind[kind] = count
        now = self._monotonic()
        is_power_of_two = count & (count - 1) == 0
        is_due = is_power_of_two or now - self._logged_at[kind] >= _LINE_SECONDS
        if is_due:
            self._logged_at[kind] = now
        return Occurrence(count, is_first=not is_known, is_due=is_due)


# The table of this process. The event loop's thread and the reload thread write it.
INTERNAL_ERRORS: Final = InternalErrors()


class TracebackFilter(logging.Filter):
    """Log each traceback once. A handler's filter applies to every logger."""

    def __init__(self, errors: InternalErrors = INTERNAL_ERRORS) -> None:
        super().__init__()
        self._errors = errors

    def filter(self, record: logging.LogRecord) -> bool:  # type: ignore[explicit-override] # 3.12's
        """Return whether to log a record; shorten a repeated one."""
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return True
        label = _LABELS.get(getattr(record, "MESSAGE_ID", ""), OTHER_EVENT)
        self._errors.count(label)
        kind, place = type(error).__qualname__, place_of(error)
        seen = self._errors.note((kind, place))
        if seen.is_first:
            record.exc_text = describe(error, with_messages=True).rstrip("\n")
            return True
        record.msg = f"{record.getMessage()}: {kind} at {place}, {seen.times} times"
        record.args = record.exc_info = record.exc_text = None
        return seen.is_due
