"""The one clock of the emulated services, so that a test can set it wrong."""

from __future__ import annotations

import datetime as dt
import time


class Clock:
    """Wall-clock time, plus a skew.

    Args:
        start: seconds since 1970 at which the clock stands still; `None` to follow
            the machine's clock.
    """

    def __init__(self, start: float | None = None) -> None:
        self._start = start
        self.skew_seconds = 0.0

    def now(self) -> float:
        """Give seconds since 1970 (UTC)."""
        time_now = time.time() if self._start is None else self._start  # noqa: TID251 - this is the emulator's clock module
        return time_now + self.skew_seconds

    def utc(self) -> dt.datetime:
        """Give the same as an aware UTC time."""
        return dt.datetime.fromtimestamp(self.now(), dt.UTC)

    @staticmethod
    def monotonic() -> float:
        """Give seconds that only ever grow: for the request log and rate limits."""
        return time.monotonic()
