"""Two versions of a key, for as long as the configuration says."""

from __future__ import annotations

import pytest
from support.agent import NOW, REFRESH_SECONDS, VERSION, failure, released_key
from support.agent_scheduler import World, run_scheduler

from skragent.agent.key_records import KeyLifetimePolicy
from skragent.keyring import KeyState

HOUR = 3600.0
NEXT = "f" * 32
LAST = "e" * 32
OVERLAP = KeyLifetimePolicy(overlap_seconds=HOUR)


async def rotate(world: World, version: str = NEXT) -> None:
    """Let a new version come."""
    world.jobs.keys["disk"] = released_key("disk", version=version)
    world.scheduler.refresh(["disk"])
    await world.clock.advance(0)


def versions(world: World) -> list[str]:
    """List what would be served, the newest first."""
    both = world.reporter.held.get("disk"), world.reporter.previous.get("disk")
    return [key.version for key in both if key]


def test_without_overlap_a_version_goes_when_its_successor_comes() -> None:
    assert versions(run_scheduler(rotate)) == [NEXT]


@pytest.mark.parametrize(
    ("seconds", "expected"), [(HOUR - 1, [NEXT, VERSION]), (HOUR, [NEXT])]
)
def test_with_overlap_it_is_served_for_as_long(
    seconds: float, expected: list[str]
) -> None:
    async def test(world: World) -> None:
        await rotate(world)
        await world.clock.advance(seconds)

    assert versions(run_scheduler(test, policy=OVERLAP)) == expected


def test_a_refresh_of_the_same_version_does_not_end_the_overlap() -> None:
    async def test(world: World) -> None:
        await rotate(world)
        await rotate(world)

    assert versions(run_scheduler(test, policy=OVERLAP)) == [NEXT, VERSION]


def test_of_three_versions_the_last_two_are_served() -> None:
    async def test(world: World) -> None:
        await rotate(world)
        await rotate(world, LAST)

    assert versions(run_scheduler(test, policy=OVERLAP)) == [LAST, NEXT]


def test_a_version_before_goes_with_its_own_exp() -> None:
    async def test(world: World) -> None:
        world.jobs.keys["disk"] = released_key("disk", expires=NOW + 600)
        world.scheduler.refresh(["disk"])
        await world.clock.advance(0)
        await rotate(world)
        assert versions(world) == [NEXT, VERSION]
        await world.clock.advance(601)

    assert versions(run_scheduler(test, policy=OVERLAP)) == [NEXT]


def test_a_dropped_key_is_dropped_in_both_versions() -> None:
    async def test(world: World) -> None:
        await rotate(world)
        world.scheduler.drop("disk")

    assert versions(run_scheduler(test, policy=OVERLAP)) == []


def test_a_denied_key_is_dropped_in_both_versions() -> None:
    async def test(world: World) -> None:
        await world.clock.advance(REFRESH_SECONDS - 10)
        await rotate(world)
        world.jobs.failures["disk"] = failure("release.denied.policy", "denied")
        world.scheduler.refresh(["disk"])
        await world.clock.advance(60)

    world = run_scheduler(test, policy=OVERLAP)
    assert world.scheduler.records["disk"].state is KeyState.DENIED
    assert versions(world) == []


def test_a_key_that_comes_back_has_no_version_before() -> None:
    async def test(world: World) -> None:
        world.scheduler.drop("disk")
        await rotate(world)

    assert versions(run_scheduler(test, policy=OVERLAP)) == [NEXT]


def test_a_version_that_grew_too_old_in_a_suspended_machine_is_not_kept_beside() -> (
    None
):
    async def test(world: World) -> None:
        world.jobs.failures["disk"] = failure("transport.throttled", "retry", 5)
        world.scheduler.refresh(["disk"])
        await world.clock.advance(0)
        world.jobs.failures.clear()
        world.jobs.keys["disk"] = released_key("disk", version=NEXT)
        world.clock.boot += 14 * 24 * HOUR
        world.clock.wall += 14 * 24 * HOUR
        await world.clock.advance(0)

    assert versions(run_scheduler(test, policy=OVERLAP)) == [NEXT]
