"""Two ways to count requests: a bucket that refills, and a window that slides."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class TokenBucket:
    """Holds at most `burst` tokens and gains `per_second` of them each second.

    The services publish "N a second" and not their algorithm. A bucket of N lets a
    client spend its N at once, as they allow, and no more than 2 N in any second.
    """

    def __init__(
        self, per_second: float, burst: float, monotonic: Callable[[], float]
    ) -> None:
        self._per_second = per_second
        self._burst = burst
        self._monotonic = monotonic
        self._tokens = burst
        self._filled_at = monotonic()

    def take(self) -> bool:
        """Spend one token if there is one."""
        now = self._monotonic()
        gained = (now - self._filled_at) * self._per_second
        self._tokens = min(self._burst, self._tokens + gained)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class SlidingWindow:
    """Lets no more than `most` requests through in any `seconds`.

    For a limit that is published as "N in 10 seconds": a bucket of N would let nearly
    2 N through in the first ten. What was refused does not count.
    """

    def __init__(
        self, most: int, seconds: float, monotonic: Callable[[], float]
    ) -> None:
        self._seconds = seconds
        self._monotonic = monotonic
        self._last: deque[float] = deque(maxlen=most)  # that were let through

    def take(self) -> bool:
        """Let a request through if there is room."""
        now = self._monotonic()
        is_full = len(self._last) == self._last.maxlen
        if is_full and now - self._last[0] < self._seconds:
            return False
        self._last.append(now)  # the oldest one makes room
        return True
