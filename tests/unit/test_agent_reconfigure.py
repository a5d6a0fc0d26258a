"""What another configuration means for keys that are held, waited for or asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from support.agent import REFRESH_SECONDS, VERSION, failure, make_config
from support.agent_scheduler import World, run_scheduler

from skragent.agent.jobs import key_requests
from skragent.agent.key_records import KeyLifetimePolicy
from skragent.keyring import KeyState

if TYPE_CHECKING:
    from skragent.job import KeyRequest

OTHER_VERSION = "f" * 32


def requests(*aliases: str, **changes: str) -> dict[str, KeyRequest]:
    """Ask for these keys; `changes` are those of the first one."""
    found = key_requests(make_config(*aliases))
    if changes:
        found[aliases[0]] = msgspec.structs.replace(found[aliases[0]], **changes)
    return found


def configure(
    world: World,
    keys: dict[str, KeyRequest],
    policy: KeyLifetimePolicy = KeyLifetimePolicy(),  # noqa: B008 - frozen
) -> None:
    world.scheduler.configure(keys, dict.fromkeys(keys, policy))


def test_a_key_that_is_added_is_requested_at_once_and_alone() -> None:
    async def test(world: World) -> None:
        configure(world, requests("disk", "new"))
        await world.clock.advance(0)

    world = run_scheduler(test)
    assert [aliases for _, aliases in world.jobs.asked] == [("disk",), ("new",)]
    assert world.reporter.held.keys() == {"disk", "new"}


def test_a_removed_key_is_not_requested_again() -> None:
    async def test(world: World) -> None:
        configure(world, requests("disk"))
        await world.clock.advance(REFRESH_SECONDS + 1)

    world = run_scheduler(test, "disk", "gone")
    assert "gone" not in world.scheduler.records
    assert {aliases for _, aliases in world.jobs.asked[1:]} == {("disk",)}


def test_an_unchanged_key_stays_held_and_is_not_requested() -> None:
    async def test(world: World) -> None:
        configure(world, requests("disk"))
        await world.clock.advance(60)

    world = run_scheduler(test)
    assert world.times == [0]
    assert world.reporter.held.keys() == {"disk"}
    assert world.reporter.states["disk"] is KeyState.CURRENT


def test_a_name_that_now_means_another_key_wipes_the_old_one() -> None:
    async def test(world: World) -> None:
        world.jobs.failures["disk"] = failure("release.not_found", "denied")
        configure(world, requests("disk", name="another"))
        assert world.reporter.states["disk"] is KeyState.WAITING
        await world.clock.advance(0)

    world = run_scheduler(test)
    assert world.reporter.held == {}
    assert len(world.jobs.asked) == 2


def test_another_version_is_requested_while_the_one_before_is_held() -> None:
    async def test(world: World) -> None:
        world.jobs.failures["disk"] = failure("transport.timeout", "retry")
        configure(world, requests("disk", version=OTHER_VERSION))
        await world.clock.advance(0)

    world = run_scheduler(test)
    assert len(world.jobs.asked) == 2
    assert world.reporter.held["disk"].version == VERSION


def test_a_dropped_key_stays_dropped_in_another_version() -> None:
    async def test(world: World) -> None:
        world.scheduler.drop("disk")
        configure(world, requests("disk", version=OTHER_VERSION))
        await world.clock.advance(60)

    world = run_scheduler(test)
    assert world.scheduler.records["disk"].state is KeyState.DROPPED
    assert world.times == [0]


def test_a_job_that_runs_while_its_key_is_removed_says_nothing_of_it() -> None:
    world = run_scheduler(remove_while_it_runs, "disk", "gone")
    assert world.reporter.held.keys() == {"disk"}


def test_a_job_that_fails_while_its_key_is_removed_is_repeated_for_the_others() -> None:
    world = run_scheduler(
        remove_while_it_runs,
        "disk",
        "gone",
        whole=failure("transport.timeout", "retry"),
    )
    assert world.jobs.asked[-1][1] == ("disk",)


async def remove_while_it_runs(world: World) -> None:
    def remove() -> None:
        world.jobs.while_running = lambda: None
        configure(world, requests("disk"))

    world.jobs.while_running = remove
    world.scheduler.refresh(["disk", "gone"])
    world.reporter.held.clear()
    await world.clock.advance(5)


def test_a_job_that_runs_while_its_name_changes_says_nothing_of_the_other_key() -> None:
    async def test(world: World) -> None:
        def change() -> None:
            world.jobs.while_running = lambda: None
            configure(world, requests("disk", name="another"))

        world.reporter.held.clear()
        world.jobs.while_running = change
        world.scheduler.refresh(["disk"])
        await world.clock.advance(0)

    world = run_scheduler(test)
    assert len(world.jobs.asked) == 3  # the first, the void one, and the other key's
    assert world.reporter.held.keys() == {"disk"}


def test_a_wait_after_a_failure_ends_with_another_configuration() -> None:
    async def test(world: World) -> None:
        await world.clock.advance(20)
        before = len(world.jobs.asked)
        configure(world, requests("disk"))
        await world.clock.advance(0)
        assert len(world.jobs.asked) == before + 1

    run_scheduler(test, whole=failure("transport.timeout", "retry"))
