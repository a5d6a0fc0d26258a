"""Notify systemd's watchdog as long as the scheduler's loops are running.

Each loop says when its next heartbeat is due (`Heartbeats`). A loop that is overdue
hangs, even if the event loop runs. Then the agent does not notify systemd, which kills
it and starts another one (WatchdogSec=, systemd.service(5)). The sockets are systemd's
and stay open.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skragent.agent.clock import Clock
    from skragent.agent.systemd_notify import Notifier

# Timers are late on a busy machine, and on one that was suspended.
_GRACE_SECONDS: Final = 30.0

# sd_watchdog_enabled(3) recommends two notifications in each period.
_NOTIFICATIONS_PER_PERIOD: Final = 3.0


class Heartbeats:
    """The boot time until which each loop must send its next heartbeat."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due_at: dict[str, float] = {}

    def expect(self, loop: str, seconds: float) -> None:
        """Send a heartbeat of a loop, and expect its next one within a time."""
        self._due_at[loop] = self._clock.boottime() + seconds

    def are_on_time(self) -> bool:
        """Return whether no heartbeat is overdue."""
        boottime = self._clock.boottime()
        return all(boottime <= due + _GRACE_SECONDS for due in self._due_at.values())


def watchdog_seconds(environment: Mapping[str, str]) -> float | None:
    """Return the watchdog's period; None if systemd does not watch this process."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        microseconds = int(environment.get("WATCHDOG_USEC", ""))
    except ValueError:
        return None
    return microseconds / 1e6 if microseconds > 0 else None


async def notify_watchdog(
    heartbeats: Heartbeats, *, seconds: float, clock: Clock, notifier: Notifier
) -> None:
    """Notify systemd as long as heartbeats are on time. Does not return.

    Args:
        heartbeats: of the loops.
        seconds: the watchdog's period.
        clock: the agent's clock.
        notifier: notifies systemd.
    """
    never = asyncio.Event()
    while True:
        if heartbeats.are_on_time():
            notifier.alive()
        await clock.wait(never, seconds / _NOTIFICATIONS_PER_PERIOD)
