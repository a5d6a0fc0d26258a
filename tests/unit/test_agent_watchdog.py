"""When systemd hears that the agent records, and when it does not."""

from __future__ import annotations

import asyncio
import os

import pytest
from support.agent import REFRESH_SECONDS, FakeClock, failure, run, settle
from support.agent_scheduler import World, run_scheduler

from skragent.agent.systemd_notify import Notifier
from skragent.agent.watchdog import Heartbeats, notify_watchdog, watchdog_seconds


class Systemd(Notifier):
    """Counts what systemd would hear."""

    def __init__(self) -> None:
        super().__init__({})
        self.heard = 0

    def alive(self) -> None:
        self.heard += 1


def test_a_heartbeat_may_be_a_little_late() -> None:
    clock = FakeClock()
    heartbeats = Heartbeats(clock)
    heartbeats.expect("a", 10.0)
    clock.boot += 30
    assert heartbeats.are_on_time()


def test_one_overdue_heartbeat_is_enough() -> None:
    clock = FakeClock()
    heartbeats = Heartbeats(clock)
    heartbeats.expect("a", 10.0)
    clock.boot += 50
    heartbeats.expect("b", 10.0)
    assert not heartbeats.are_on_time()


def test_systemd_is_notified_three_times_in_each_period() -> None:
    async def test() -> Systemd:
        clock, systemd = FakeClock(), Systemd()
        heartbeats = Heartbeats(clock)
        heartbeats.expect("a", 60.0)
        watching = asyncio.create_task(
            notify_watchdog(heartbeats, seconds=30.0, clock=clock, notifier=systemd)
        )
        await clock.advance(1000)
        watching.cancel()
        await settle()
        return systemd

    assert run(test()).heard == 10  # at 0, 10 … 90 s


@pytest.mark.parametrize("whole", [None, failure("transport.timeout", "retry")])
def test_a_scheduler_that_works_or_waits_sends_heartbeats(whole: object) -> None:
    async def test(world: World) -> None:
        for _ in range(int(REFRESH_SECONDS / 60) + 10):
            await world.clock.advance(60)
            assert world.scheduler.heartbeats.are_on_time()

    run_scheduler(test, whole=whole)


def test_a_job_that_never_ends_breaks_them() -> None:
    async def test(world: World) -> None:
        async def hang(*_: object, **__: object) -> None:
            await asyncio.Event().wait()

        world.jobs.run = hang  # type: ignore[method-assign, assignment]
        world.scheduler.refresh(["disk"])
        await world.clock.advance(world.jobs.longest_seconds)
        assert world.scheduler.heartbeats.are_on_time()
        await world.clock.advance(60)
        assert not world.scheduler.heartbeats.are_on_time()

    run_scheduler(test)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "x"}, None),
    ],
)
def test_the_watchdog_is_only_for_the_process_that_systemd_names(
    environment: dict[str, str], expected: float | None
) -> None:
    assert watchdog_seconds(environment) == expected
