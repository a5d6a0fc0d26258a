"""Rate limits: a token bucket and a sliding window."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class TokenBucket:
    """A bucket with at most `burst` tokens that gains `per_second` tokens per second.

    The services publish "N per second" without their algorithm. With a bucket of N, a
    client can use N tokens at once, as the services allow, and at most 2 N per second.
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
        """Take a token; return whether there was one."""
        now = self._monotonic()
        gained = (now - self._filled_at) * self._per_second
        self._tokens = min(self._burst, self._tokens + gained)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class SlidingWindow:
    """A window that admits at most `most` requests in any `seconds`.

    For limits published as "N in 10 seconds": a bucket of N would admit nearly 2 N in
    the first ten seconds. Refused requests do not count.
    """

    def __init__(
        self, most: int, seconds: float, monotonic: Callable[[], float]
    ) -> None:
        self._seconds = seconds
        self._monotonic = monotonic
        self._last: deque[float] = deque(maxlen=most)  # times of admitted requests

    def take(self) -> bool:
        """Admit a request; return whether the limit allows it."""
        now = self._monotonic()
        is_full = len(self._last) == self._last.maxlen
        if is_full and now - self._last[0] < self._seconds:
            return False
        self._last.append(now)  # a full deque drops its oldest time
        return True
