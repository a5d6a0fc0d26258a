"""The clock of the emulated services, which tests and faults can set."""

from __future__ import annotations

import datetime as dt
import time


class Clock:
    """Wall-clock time, plus a skew.

    Args:
        start: seconds since 1970 (UTC) at which the clock stands still; `None` follows
            the machine's clock.
    """

    def __init__(self, start: float | None = None) -> None:
        self._start = start
        self.skew_seconds = 0.0

    def now(self) -> float:
        """Return seconds since 1970 (UTC)."""
        time_now = time.time() if self._start is None else self._start  # noqa: TID251 - this is the emulator's clock module
        return time_now + self.skew_seconds

    def utc(self) -> dt.datetime:
        """Return the same time as an aware datetime in UTC."""
        return dt.datetime.fromtimestamp(self.now(), dt.UTC)

    @staticmethod
    def monotonic() -> float:
        """Return monotonic seconds, for the request log and rate limits."""
        return time.monotonic()
