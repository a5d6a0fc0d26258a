"""Logging of events: `log(event, message, **fields)`.

If systemd connected stderr to the journal, entries go to the journal with their fields.
Else they are lines on stderr. Warnings of asyncio and other libraries go the same way.

A field cannot be `bytes`: this prevents logging a key by accident.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Final

from skragent.observe.internal_errors import TracebackFilter
from skragent.observe.names import (
    FIELD_PREFIX,
    OBJECT_UNIT_FIELD,
    SYSLOG_IDENTIFIER,
    Event,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

_logger: Final = logging.getLogger("skragent")

Value = str | int | float | None


def set_up_logging(environment: Mapping[str, str]) -> None:
    """Send all log records to the journal or to stderr; call it once, at the start."""
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    handler = (
        _journal_handler()
        if is_stderr_the_journal(environment.get("JOURNAL_STREAM", ""))
        else _stderr_handler()
    )
    handler.addFilter(TracebackFilter())
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    # Without this, logging writes a traceback for each entry that it cannot write.
    logging.raiseExceptions = False


def log(
    event: Event, message: str, *, error: BaseException | None = None, **fields: Value
) -> None:
    """Write one entry.

    Args:
        event: sets the MESSAGE_ID and the priority.
        message: one sentence for people.
        error: an unexpected error; its traceback is logged once (`internal_errors`).
        fields: fields for scripts; `key=` becomes SKRAGENT_KEY. `unit=` also sets
            OBJECT_SYSTEMD_UNIT: the unit that the entry is about.
    """
    extra: dict[str, object] = {"MESSAGE_ID": event.message_id}
    for name, value in fields.items():
        if not isinstance(value, Value):
            raise TypeError(f"{name} is {type(value).__name__}: not a loggable type")
        if value is not None:
            extra[FIELD_PREFIX + name.upper()] = _as_utf8(str(value))
    if fields.get("unit") is not None:
        extra[OBJECT_UNIT_FIELD] = _as_utf8(str(fields["unit"]))
    _logger.log(event.level, "%s", _as_utf8(message), exc_info=error, extra=extra)


def _as_utf8(text: str) -> str:
    """Escape lone surrogates: the journal rejects an entry that is not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def is_stderr_the_journal(journal_stream: str) -> bool:
    """Compare stderr with JOURNAL_STREAM, `DEVICE:INODE`: systemd.exec(5)."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return journal_stream == f"{status.st_dev}:{status.st_ino}"


def _journal_handler() -> logging.Handler:
    # Imported here, so that a machine without libsystemd can log to stderr.
    from systemd.journal import JournalHandler  # noqa: PLC0415 - see above

    handler: logging.Handler = JournalHandler(SYSLOG_IDENTIFIER=SYSLOG_IDENTIFIER)
    return handler


def _stderr_handler() -> logging.Handler:
    handler = logging.StreamHandler()
    handler.setFormatter(_LineFormatter("%(levelname)s %(message)s"))
    return handler


class _LineFormatter(logging.Formatter):
    """Format an entry as one line, with its fields after the message."""

    def format(self, record: logging.LogRecord) -> str:  # type: ignore[explicit-override] # 3.12's
        line = super().format(record)
        fields = "".join(
            f" {name[len(FIELD_PREFIX) :].lower()}={value}"
            for name, value in vars(record).items()
            if name.startswith(FIELD_PREFIX)
        )
        head, newline, traceback = line.partition("\n")
        return f"{head}{' |' if fields else ''}{fields}{newline}{traceback}"
