"""Errors that are bugs of ours: each is told in full once, then counted.

A local user who finds a request that fails unexpectedly must not be able to fill the
journal with it. So a traceback is logged once for each place and type of exception in
a process's life. Later ones are counted, and one line has the count: at 2, 4, 8 …, and
otherwise once a minute at most.
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
# Of all kinds for which there is no room in the table.
_FURTHER: Final = "further"

_LABELS: Final = {event.message_id: event.name.lower() for event in Event}


class Occurrence(NamedTuple):
    """One internal error, as the table has counted it."""

    times: int  # of this kind, this one included
    is_first: bool  # to be told in full
    is_due: bool  # to be told in one line, unless it is the first


class InternalErrors:
    """The table of one process; bounded.

    Args:
        monotonic: the clock for the lines.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self.counts: Counter[str] = Counter()
        self._counts_by_kind: dict[Hashable, int] = {}
        self._told_at: dict[Hashable, float] = {}
        self.clear()

    def clear(self) -> None:
        """Empty the table, as it is in a new process."""
        self.counts.clear()
        self.counts.update(dict.fromkeys(INTERNAL_ERROR_EVENTS, 0))
        self._counts_by_kind.clear()
        self._told_at.clear()

    def count(self, event: str) -> None:
        """Count an internal error for the metric, by the event that tells of it."""
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
        is_due = is_power_of_two or now - self._told_at[kind] >= _LINE_SECONDS
        if is_due:
            self._told_at[kind] = now
        return Occurrence(count, is_first=not is_known, is_due=is_due)


# This process's. Only the event loop's thread and `reload`'s write it, rarely.
INTERNAL_ERRORS: Final = InternalErrors()


class TracebackFilter(logging.Filter):
    """Leaves each traceback in the log once; for a handler, so for every logger."""

    def __init__(self, errors: InternalErrors = INTERNAL_ERRORS) -> None:
        super().__init__()
        self._errors = errors

    def filter(self, record: logging.LogRecord) -> bool:  # type: ignore[explicit-override] # 3.12's
        """Tell whether to log a record; shorten it if it is one more of its kind."""
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
