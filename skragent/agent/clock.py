"""The agent's clock: the only module that reads the time.

Wall time (`now`) is for times that other systems state in wall time: certificates,
tokens, a key's `exp`. All other deadlines are on CLOCK_BOOTTIME, which neither an
administrator nor NTP can set, and which does not stop while the machine is suspended.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio

# The event loop's timers stop while a VM is suspended, CLOCK_BOOTTIME does not. A long
# wait reads the clock this often, so that deadlines are applied soon after a resume.
_POLL_SECONDS = 5.0


class Clock(Protocol):
    """Reads the time and waits."""

    def now(self) -> float:
        """Return the wall time: seconds since 1970 (UTC)."""
        ...

    def boottime(self) -> float:
        """Return the seconds since the machine booted, suspension included."""
        ...

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        """Wait for `event`, at most `seconds`; return whether it is set."""
        ...


class SystemClock:
    """Reads the clocks of the machine."""

    def now(self) -> float:
        """Return the wall time: seconds since 1970 (UTC)."""
        return time.time()  # noqa: TID251 - this is the clock

    def boottime(self) -> float:
        """Return the seconds since the machine booted, suspension included."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        """Wait for `event`, at most `seconds`; return whether it is set."""
        import asyncio  # noqa: PLC0415 - the first releaser starts before it is loaded

        deadline = self.boottime() + seconds
        while not event.is_set():
            left = deadline - self.boottime()
            if left <= 0:
                return False
            try:
                async with asyncio.timeout(min(left, _POLL_SECONDS)):
                    await event.wait()
            except TimeoutError:
                continue
        return True
