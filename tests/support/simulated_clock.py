"""A fast clock for tests that simulate weeks.

It creates no task for a wait, and runs the event loop only while a task is ready.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from support.agent import FakeClock
from typing_extensions import override

# More waits at the same time are a tight loop.
_MAX_WAITS_AT_ONCE = 1000


@dataclass(eq=False)
class _Sleeper:
    deadline: float
    event: asyncio.Event
    future: asyncio.Future[None]


class SimulatedClock(FakeClock):
    """Wakes the tasks that wait for an event when no other task can run."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: list[_Sleeper] = []
        self._waits_at_once = 0  # waits that began at the present time

    @override
    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        self._waits_at_once += 1
        assert self._waits_at_once < _MAX_WAITS_AT_ONCE, "a tight loop"
        if event.is_set() or seconds <= 0:
            return event.is_set()
        future = asyncio.get_running_loop().create_future()
        sleeper = _Sleeper(self.boot + seconds, event, future)
        self._waiting.append(sleeper)
        try:
            await future
        finally:
            self._waiting.remove(sleeper)
        return event.is_set()

    @override
    async def advance(self, seconds: float) -> None:
        end = self.boot + seconds
        await self.settle()
        while due := [s for s in self._waiting if s.deadline <= end]:
            first = min(due, key=lambda sleeper: sleeper.deadline)
            if first.deadline > self.boot:
                self._waits_at_once = 0
            self._move_to(max(first.deadline, self.boot))
            first.future.set_result(None)
            await self.settle()
        self._move_to(end)
        self._waits_at_once = 0
        await self.settle()

    async def settle(self) -> None:
        """Run all tasks that are ready, until each task waits."""
        ready = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]
        await asyncio.sleep(0)
        while True:
            while ready:  # noqa: ASYNC110 - asyncio has no event for an idle loop
                await asyncio.sleep(0)
            woken = [s for s in self._waiting if s.event.is_set()]
            if not woken:
                return
            for sleeper in woken:
                sleeper.future.set_result(None)
            await asyncio.sleep(0)
