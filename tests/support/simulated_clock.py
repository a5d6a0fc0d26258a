"""A clock for weeks of time: no task for each wait, no turn of the loop too many."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from support.agent import FakeClock
from typing_extensions import override

# More waits without time passing are a tight loop.
_TIGHT_LOOP = 1000


@dataclass(eq=False)
class _Sleeper:
    deadline: float
    event: asyncio.Event
    future: asyncio.Future[None]


class QuickClock(FakeClock):
    """Wakes the tasks that wait for an event when no other task can run."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: list[_Sleeper] = []
        self._waits_now = 0  # since time passed

    @override
    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        self._waits_now += 1
        assert self._waits_now < _TIGHT_LOOP, "a tight loop"
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
                self._waits_now = 0
            self._move_to(max(first.deadline, self.boot))
            first.future.set_result(None)
            await self.settle()
        self._move_to(end)
        self._waits_now = 0
        await self.settle()

    async def settle(self) -> None:
        """Let everything run that can run without time passing."""
        ready = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]
        await asyncio.sleep(0)
        while True:
            while ready:  # noqa: ASYNC110 - nothing tells when a loop is idle
                await asyncio.sleep(0)
            woken = [s for s in self._waiting if s.event.is_set()]
            if not woken:
                return
            for sleeper in woken:
                sleeper.future.set_result(None)
            await asyncio.sleep(0)
