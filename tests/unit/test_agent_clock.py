from __future__ import annotations

import asyncio
import time

from support.agent import run
from support.deadlines import DEADLINE_SECONDS, SHORT_SECONDS

from skragent.agent.clock import SystemClock


def test_boot_time_does_not_go_back() -> None:
    clock = SystemClock()
    assert clock.boottime() <= clock.boottime()


def test_the_wall_clock_is_the_machines() -> None:
    before = time.clock_gettime(time.CLOCK_REALTIME)
    now = SystemClock().now()
    assert before <= now <= time.clock_gettime(time.CLOCK_REALTIME)


def test_a_wait_ends_when_its_time_is_over() -> None:
    clock = SystemClock()

    async def wait() -> bool:
        return await clock.wait(asyncio.Event(), SHORT_SECONDS)

    before = clock.boottime()
    assert run(wait()) is False
    assert clock.boottime() - before >= SHORT_SECONDS


def test_an_event_cuts_a_wait_short() -> None:
    async def wait() -> bool:
        event = asyncio.Event()
        asyncio.get_running_loop().call_soon(event.set)
        return await SystemClock().wait(event, DEADLINE_SECONDS)

    assert run(wait()) is True


def test_an_endless_wait_ends_with_its_event() -> None:
    async def wait() -> bool:
        event = asyncio.Event()
        asyncio.get_running_loop().call_soon(event.set)
        return await SystemClock().wait(event, float("inf"))

    assert run(wait()) is True


def test_an_event_that_has_come_is_not_waited_for() -> None:
    async def wait() -> bool:
        event = asyncio.Event()
        event.set()
        return await SystemClock().wait(event, 0)

    assert run(wait()) is True
