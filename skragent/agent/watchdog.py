"""Tells systemd that the agent lives, as long as it does what it promised.

Whoever waits in the supervisor says until when (`Promises`); one that is overdue is
wedged, whatever the event loop says. systemd then kills the agent and starts another
(WatchdogSec=, systemd.service(5)); the sockets are its own, and live on.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skragent.agent.clock import Clock
    from skragent.agent.systemd_notify import Notifier

# What may come late: timers of a busy machine, and one that was paused.
_GRACE_SECONDS: Final = 30.0

# sd_watchdog_enabled(3) asks for half of it.
_PART: Final = 3.0


class Promises:
    """Until when each loop of the supervisor will have come around again."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}

    def within(self, who: str, seconds: float) -> None:
        """Promise to promise again within so many seconds."""
        self._until[who] = self._clock.boottime() + seconds

    def are_kept(self) -> bool:
        """Tell whether nobody is overdue."""
        boottime = self._clock.boottime()
        return all(boottime <= t + _GRACE_SECONDS for t in self._until.values())


def watchdog_seconds(environment: Mapping[str, str]) -> float | None:
    """Tell how often systemd wants to hear of us; None where it does not."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        microseconds = int(environment.get("WATCHDOG_USEC", ""))
    except ValueError:
        return None
    return microseconds / 1e6 if microseconds > 0 else None


async def keep_watch(
    promises: Promises, *, seconds: float, clock: Clock, notifier: Notifier
) -> None:
    """Tell systemd of every third of its time in which promises are kept, for ever."""
    never = asyncio.Event()
    while True:
        if promises.are_kept():
            notifier.alive()
        await clock.wait(never, seconds / _PART)
