"""When versions are checked, and what follows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.agent import NOW, REFRESH_SECONDS, VERSION, failure, released_key
from support.agent_scheduler import World, run_scheduler

from skragent.agent.key_records import KeyLifetimePolicy, lifetime_policies
from skragent.config import parse_config
from skragent.errors import ReleaserError
from skragent.keyring import KeyState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skragent.job import KeyRequest, Result

NEXT = "f" * 32
EACH = 600.0
CHECKED = KeyLifetimePolicy(check_seconds=EACH)


async def an_hour(world: World) -> None:
    await world.clock.advance(3600)


def test_without_a_policy_no_version_is_checked() -> None:
    assert run_scheduler(an_hour).jobs.checked == []


def test_versions_are_checked_as_often_as_the_policy_says() -> None:
    world = run_scheduler(an_hour, policy=CHECKED, latest={"disk": VERSION})
    began = world.jobs.asked[0][0]
    assert [moment - began for moment, _ in world.jobs.checked] == [
        EACH * i for i in range(1, 7)
    ]
    assert world.times == [0]


def test_one_check_is_for_all_keys_that_are_due() -> None:
    world = run_scheduler(an_hour, "disk", "web", policy=CHECKED)
    assert {aliases for _, aliases in world.jobs.checked} == {("disk", "web")}


def test_a_new_version_is_released_at_once() -> None:
    async def test(world: World) -> None:
        world.jobs.latest["disk"] = NEXT
        world.jobs.keys["disk"] = released_key(version=NEXT)
        await world.clock.advance(EACH)

    world = run_scheduler(test, policy=CHECKED)
    assert world.times == [0, EACH]
    assert world.reporter.held["disk"].version == NEXT


def test_a_version_check_does_not_bypass_the_backoff_after_a_429() -> None:
    async def test(world: World) -> None:
        world.jobs.latest["disk"] = NEXT
        world.jobs.failures["disk"] = failure("transport.throttled", "retry")
        await world.clock.advance(60)

    world = run_scheduler(test, policy=KeyLifetimePolicy(check_seconds=20))
    assert len(world.jobs.checked) == 3
    assert world.times == pytest.approx([0, 20, 30, 41, 53.1])


def test_a_version_check_does_not_shorten_a_retry_after() -> None:
    async def test(world: World) -> None:
        world.jobs.latest["disk"] = NEXT
        world.jobs.failures["disk"] = failure("transport.server", "retry", 100)
        world.scheduler.refresh(["disk"])
        await world.clock.advance(90)

    world = run_scheduler(test, policy=KeyLifetimePolicy(check_seconds=20))
    assert len(world.jobs.checked) >= 3
    assert world.times == [0, 0]


def test_a_version_check_does_not_end_the_backoff_of_another_key() -> None:
    async def test(world: World) -> None:
        world.jobs.failures["mail"] = failure("transport.server", "retry")
        world.jobs.poison = "disk"
        world.scheduler.refresh(["disk", "mail"])
        mail = world.scheduler.records["mail"].retry
        while mail.due_at >= world.clock.boot or mail.retry_at < world.clock.boot + 5:
            await world.clock.advance(1)
            mail = world.scheduler.records["mail"].retry
        world.jobs.latest["signing"] = NEXT
        world.jobs.keys["signing"] = released_key("signing", version=NEXT)
        world.jobs.asked.clear()
        await world.clock.advance(3)

    policy = KeyLifetimePolicy(check_seconds=2)
    world = run_scheduler(test, "disk", "mail", "signing", policy=policy)
    # The success of that job does: the cause of the failure is gone.
    assert [aliases for _, aliases in world.jobs.asked] == [("signing",), ("mail",)]


def test_a_key_that_is_due_does_not_wait_for_a_version_check_that_hangs() -> None:
    async def test(world: World) -> None:
        await world.clock.advance(EACH + 5)
        world.scheduler.refresh(["disk"])
        await world.clock.advance(1)

    world = run_scheduler(test, policy=CHECKED, check_hangs=True)
    assert len(world.jobs.checked) == 1
    assert world.times == [0, EACH + 5]


def test_a_refresh_that_becomes_due_ends_a_version_check_that_hangs() -> None:
    async def test(world: World) -> None:
        await world.clock.advance(REFRESH_SECONDS + 1)

    each = REFRESH_SECONDS * 0.6
    world = run_scheduler(
        test, policy=KeyLifetimePolicy(check_seconds=each), check_hangs=True
    )
    assert len(world.jobs.checked) == 1
    assert len(world.jobs.asked) == 2


def test_only_the_key_that_is_new_is_released() -> None:
    async def test(world: World) -> None:
        world.jobs.latest.update(disk=NEXT, web=VERSION)
        await world.clock.advance(EACH)

    world = run_scheduler(test, "disk", "web", policy=CHECKED)
    assert [aliases for _, aliases in world.jobs.asked[1:]] == [("disk",)]


def test_a_missing_permission_is_reported_once_and_ends_the_checks() -> None:
    async def test(world: World) -> None:
        world.jobs.latest["disk"] = ""
        await world.clock.advance(3600)
        await world.clock.advance(REFRESH_SECONDS + 3600)

    world = run_scheduler(test, policy=CHECKED)
    assert len(world.jobs.checked) == 1
    assert world.reporter.unchecked == ["disk"]
    assert world.reporter.held.keys() == {"disk"}


def test_a_failed_version_check_changes_nothing_and_is_repeated() -> None:
    async def test(world: World) -> None:
        world.jobs.whole = ReleaserError("x", code="releaser.timeout")
        await world.clock.advance(2 * EACH)

    world = run_scheduler(test, policy=CHECKED)
    assert len(world.jobs.checked) == 2
    assert world.times == [0]
    assert world.scheduler.records["disk"].state is KeyState.CURRENT
    assert world.reporter.codes == []


def test_a_key_that_is_not_held_is_not_checked() -> None:
    async def test(world: World) -> None:
        world.scheduler.drop("disk")
        await world.clock.advance(3600)

    assert run_scheduler(test, policy=CHECKED).jobs.checked == []


def test_a_key_dropped_during_its_version_check_stays_dropped() -> None:
    async def test(world: World) -> None:
        world.jobs.latest["disk"] = NEXT
        check = world.jobs.check

        async def drop(keys: Sequence[KeyRequest]) -> Result:
            world.scheduler.drop("disk")
            return await check(keys)

        world.jobs.check = drop  # type: ignore[method-assign]
        await world.clock.advance(3600)

    world = run_scheduler(test, policy=CHECKED)
    assert world.times == [0]
    assert world.scheduler.records["disk"].state is KeyState.DROPPED


def test_a_wall_clock_that_jumps_brings_no_check_forward() -> None:
    async def test(world: World) -> None:
        world.clock.wall = NOW + 10 * 365 * 86400
        await world.clock.advance(EACH - 1)

    assert run_scheduler(test, policy=CHECKED).jobs.checked == []


def test_a_version_that_is_configured_has_no_successor() -> None:
    key = '[keys.a]\nvault = "https://v.vault.azure.net"\n'
    assert lifetime_policies(parse_config(key))["a"].check_seconds == 3600
    pinned = parse_config(f'{key}version = "{NEXT}"')
    assert lifetime_policies(pinned)["a"].check_seconds is None
    never = parse_config(f"{key}version_check_seconds = 0")
    assert lifetime_policies(never)["a"].check_seconds is None
