"""What is asked again, and how soon: after orders, crashes and wrong wall clocks."""

from __future__ import annotations

from support.agent import NOW, TOKEN_LIFE_SECONDS, failure, released_key
from support.agent_scheduler import World, run_scheduler

from skragent.agent.key_records import KeyLifetimePolicy
from skragent.keyring import KeyState

YEARS = 10 * 365 * 86400.0


def test_a_refresh_while_a_failing_job_runs_cuts_the_wait_after_it_short() -> None:
    async def test(world: World) -> None:
        def refresh() -> None:
            world.jobs.while_running = lambda: None
            world.jobs.whole = failure("transport.throttled", "retry", 600)
            world.scheduler.refresh(["signing"])

        world.jobs.while_running = refresh
        world.scheduler.refresh(["disk"])
        await world.clock.advance(1)

    world = run_scheduler(test, "disk", "signing")
    assert [aliases for _, aliases in world.jobs.asked[1:]] == [
        ("disk",),
        ("disk", "signing"),
    ]


def test_a_refresh_during_its_job_requests_the_key_again() -> None:
    async def test(world: World) -> None:
        def refresh() -> None:
            world.jobs.while_running = lambda: None
            world.scheduler.refresh(["disk"])

        world.jobs.while_running = refresh
        world.scheduler.refresh(["disk"])
        await world.clock.advance(0)

    assert len(run_scheduler(test).times) == 3


def test_an_attempt_that_began_before_the_order_is_not_counted_for_it() -> None:
    async def test(world: World) -> None:
        def refresh() -> None:
            world.jobs.while_running = lambda: None
            world.scheduler.refresh(["disk"])

        world.reporter.attempts.clear()
        world.jobs.while_running = refresh
        world.scheduler.refresh(["disk"])
        await world.clock.advance(0)

    world = run_scheduler(test)
    assert len(world.times) == 3
    assert world.reporter.attempts == ["disk"]


def test_a_failed_job_is_an_attempt_for_each_of_its_keys() -> None:
    async def test(world: World) -> None:
        world.reporter.attempts.clear()
        world.jobs.whole = failure("transport.timeout", "retry", 600)
        world.scheduler.refresh(["disk", "signing"])
        await world.clock.advance(0)

    assert run_scheduler(test, "disk", "signing").reporter.attempts == [
        "disk",
        "signing",
    ]


def test_a_key_that_failed_alone_had_an_attempt() -> None:
    async def test(world: World) -> None:
        world.reporter.attempts.clear()
        world.jobs.failures["disk"] = failure("release.denied.policy", "denied", 600)
        world.scheduler.refresh(["disk"])
        await world.clock.advance(0)

    assert run_scheduler(test, "disk", "signing").reporter.attempts == ["disk"]


def test_the_result_of_a_job_is_ignored_for_a_key_that_was_dropped_meanwhile() -> None:
    async def test(world: World) -> None:
        def drop() -> None:
            world.jobs.while_running = lambda: world.jobs.keys.update(
                disk=released_key(version="f" * 32)
            )
            world.scheduler.drop("disk")
            world.scheduler.refresh(["disk"])

        world.jobs.while_running = drop
        world.scheduler.refresh(["disk"])
        await world.clock.advance(0)

    world = run_scheduler(test)
    assert len(world.times) == 3
    assert world.reporter.held["disk"].version == "f" * 32


def test_a_key_that_crashes_its_jobs_does_not_prevent_other_releases() -> None:
    async def test(world: World) -> None:
        await world.clock.advance(60)

    names = [f"key{number}" for number in range(8)]
    world = run_scheduler(test, *names, poison="key3")
    assert world.reporter.held.keys() == set(names) - {"key3"}


def test_a_wall_clock_that_is_set_right_lets_a_key_be_held_that_seemed_too_new() -> (
    None
):
    async def test(world: World) -> None:
        world.clock.wall -= YEARS
        world.scheduler.refresh(["disk"])
        await world.clock.advance(1)
        world.scheduler.drop("disk")
        world.scheduler.refresh(["disk"])
        await world.clock.advance(1)
        assert world.reporter.held == {}
        world.clock.wall += YEARS
        await world.clock.advance(10)

    world = run_scheduler(test, keys={"disk": released_key(not_before=NOW - 50)})
    assert world.reporter.held.keys() == {"disk"}


def test_a_wall_clock_that_is_set_right_lets_a_key_be_held_that_seemed_too_old() -> (
    None
):
    async def test(world: World) -> None:
        world.clock.wall += YEARS
        await world.clock.advance(20)
        assert world.scheduler.records["disk"].state is KeyState.EXPIRED
        world.clock.wall -= YEARS
        await world.clock.advance(10)

    world = run_scheduler(test, keys={"disk": released_key(expires=NOW + 500)})
    assert world.reporter.held.keys() == {"disk"}


def test_an_expired_key_comes_back_soon_after_it_was_prolonged() -> None:
    async def test(world: World) -> None:
        await world.clock.advance(1000)
        assert world.reporter.held == {}
        world.jobs.keys["disk"] = released_key(expires=NOW + 1e6)
        await world.clock.advance(900)

    world = run_scheduler(test, keys={"disk": released_key(expires=NOW + 500)})
    assert world.reporter.held.keys() == {"disk"}


def test_the_end_of_a_key_does_not_shorten_a_retry_after() -> None:
    async def test(world: World) -> None:
        world.jobs.failures["disk"] = failure("transport.throttled", "retry", 300)
        world.scheduler.refresh(["disk"])
        await world.clock.advance(299)
        assert world.reporter.held == {}

    world = run_scheduler(test, keys={"disk": released_key(expires=NOW + 100)})
    assert world.times == [0, 0]


def test_a_refresh_ends_a_retry_after() -> None:
    async def test(world: World) -> None:
        world.jobs.failures["disk"] = failure("transport.throttled", "retry", 300)
        world.scheduler.refresh(["disk"])
        await world.clock.advance(20)
        world.scheduler.refresh(["disk"])
        await world.clock.advance(0)

    assert run_scheduler(test).times == [0, 0, 20]


def test_a_key_that_grew_too_old_is_requested_at_once() -> None:
    async def test(world: World) -> None:
        later = NOW + TOKEN_LIFE_SECONDS + 60
        world.jobs.keys["disk"] = released_key(version="f" * 32, not_before=later)
        await world.clock.advance(TOKEN_LIFE_SECONDS)
        assert world.reporter.held == {}

    world = run_scheduler(test, policy=KeyLifetimePolicy(max_stale_seconds=0))
    assert world.times[-1] == TOKEN_LIFE_SECONDS
