"""One way to say something: `log(event, message, **fields)`.

To the journal with its fields where systemd connected our stderr to it, as lines on
stderr otherwise. asyncio's and other libraries' own warnings go the same way.

A secret cannot be logged by accident: bytes of any kind are refused as a value.
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
    """Send everything to the journal or to stderr; call it once, at the start."""
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
    # An entry that cannot be written is lost; its traceback would be one more.
    logging.raiseExceptions = False


def log(
    event: Event, message: str, *, error: BaseException | None = None, **fields: Value
) -> None:
    """Write one entry.

    Args:
        event: decides the MESSAGE_ID and the priority.
        message: one sentence for people.
        error: an unexpected one; its traceback is logged once (`internal_errors`).
        fields: what scripts look for; `key=` becomes SKRAGENT_KEY. `unit=` is
            OBJECT_SYSTEMD_UNIT as well: the unit that the entry is about.
    """
    extra: dict[str, object] = {"MESSAGE_ID": event.message_id}
    for name, value in fields.items():
        if not isinstance(value, Value):
            raise TypeError(f"{name} is {type(value).__name__}: not to be logged")
        if value is not None:
            extra[FIELD_PREFIX + name.upper()] = _as_utf8(str(value))
    if fields.get("unit") is not None:
        extra[OBJECT_UNIT_FIELD] = _as_utf8(str(fields["unit"]))
    _logger.log(event.level, "%s", _as_utf8(message), exc_info=error, extra=extra)


def _as_utf8(text: str) -> str:
    """Escape what UTF-8 does not have: the journal would refuse the whole entry."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def is_stderr_the_journal(journal_stream: str) -> bool:
    """Judge JOURNAL_STREAM, `DEVICE:INODE`, as systemd.exec(5) says."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return journal_stream == f"{status.st_dev}:{status.st_ino}"


def _journal_handler() -> logging.Handler:
    # Imported here: a laptop without libsystemd logs to stderr.
    from systemd.journal import JournalHandler  # noqa: PLC0415 - see above

    handler: logging.Handler = JournalHandler(SYSLOG_IDENTIFIER=SYSLOG_IDENTIFIER)
    return handler


def _stderr_handler() -> logging.Handler:
    handler = logging.StreamHandler()
    handler.setFormatter(_LineFormatter("%(levelname)s %(message)s"))
    return handler


class _LineFormatter(logging.Formatter):
    """One line an entry, with our fields after the sentence."""

    def format(self, record: logging.LogRecord) -> str:  # type: ignore[explicit-override] # 3.12's
        line = super().format(record)
        fields = "".join(
            f" {name[len(FIELD_PREFIX) :].lower()}={value}"
            for name, value in vars(record).items()
            if name.startswith(FIELD_PREFIX)
        )
        head, newline, traceback = line.partition("\n")
        return f"{head}{' |' if fields else ''}{fields}{newline}{traceback}"
