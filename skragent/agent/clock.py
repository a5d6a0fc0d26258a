"""The one clock: the only place of the product that asks what time it is.

Wall time (`now`) is for what others decided in wall time: certificates, tokens, a
key's `exp`. Every deadline of our own is on CLOCK_BOOTTIME, which no administrator
and no NTP can set, and which goes on while the machine is suspended.

Not here: when something is due (schedule) and what happens then (lifecycle).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio

# The event loop's timers stop while a VM is suspended, CLOCK_BOOTTIME does not: a
# long wait looks up this often, so that a paused VM acts within seconds of waking.
_LOOK_UP_SECONDS = 5.0


class Clock(Protocol):
    """What the daemon's parts may ask of time."""

    def now(self) -> float:
        """Tell the wall time: seconds since 1970 (UTC)."""
        ...

    def boottime(self) -> float:
        """Tell the seconds since the machine booted, suspension included."""
        ...

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        """Wait for `event`, at most `seconds`; tell whether it is set."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> float:
        """Tell the wall time: seconds since 1970 (UTC)."""
        return time.time()  # noqa: TID251 - this is the clock

    def boottime(self) -> float:
        """Tell the seconds since the machine booted, suspension included."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        """Wait for `event`, at most `seconds`; tell whether it is set."""
        import asyncio  # noqa: PLC0415 - the first releaser starts before it is loaded

        deadline = self.boottime() + seconds
        while not event.is_set():
            left = deadline - self.boottime()
            if left <= 0:
                return False
            try:
                async with asyncio.timeout(min(left, _LOOK_UP_SECONDS)):
                    await event.wait()
            except TimeoutError:
                continue
        return True
