"""A token bucket: so many requests a second, and a short burst."""

from __future__ import annotations

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
