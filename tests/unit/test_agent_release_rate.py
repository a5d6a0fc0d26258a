"""A vault releases ten keys in ten seconds: when each key is requested."""

from __future__ import annotations

import asyncio

import pytest
from support.agent import failure, make_config
from support.agent_scheduler import World, passing, run_scheduler

from skragent.agent.jobs import key_requests
from skragent.agent.key_records import KeyLifetimePolicy
from skragent.errors import ReleaserError
from skragent.job import KeyRequest


def many(count: int) -> list[str]:
    return [f"key{number}" for number in range(count)]


def test_more_keys_than_a_vault_releases_at_once_are_released_in_its_time() -> None:
    world = run_scheduler(passing(21), *many(25))
    assert world.times == [0, 10, 20]
    assert [len(aliases) for _, aliases in world.jobs.asked] == [10, 10, 5]
    assert len(world.reporter.held) == 25


def test_a_key_that_waits_for_its_vaults_limit_delays_no_key_of_another_vault() -> None:
    async def test(world: World) -> None:
        keys = key_requests(make_config(*many(12))) | {
            "other": KeyRequest(alias="other", vault="https://o.x", name="other")
        }
        world.scheduler.configure(keys, dict.fromkeys(keys, KeyLifetimePolicy()))
        await world.clock.advance(0)
        assert "other" in world.reporter.held

    run_scheduler(test, *many(12))


def test_a_failed_key_is_not_requested_faster_than_the_limit_permits() -> None:
    failures = dict.fromkeys(many(10), failure("transport.timeout", "retry"))
    world = run_scheduler(passing(9.9), *many(10), failures=failures)
    assert world.times == [0]


def test_a_job_that_failed_before_its_requests_does_not_count_for_the_limit() -> None:
    world = run_scheduler(
        passing(1), *many(10), whole=failure("transport.timeout", "retry")
    )
    assert world.times == [0, 0.5]


def test_a_crashed_job_counts_for_the_limit() -> None:
    crash = ReleaserError("x", code="releaser.crashed")
    world = run_scheduler(passing(9.9), *many(10), whole=crash)
    assert world.times == [0]


def test_stopping_cuts_the_wait_for_a_vault_short() -> None:
    async def test(world: World) -> None:
        world.scheduler.stop()
        await asyncio.wait_for(world.task, 5)

    run_scheduler(test, *many(11))


@pytest.mark.parametrize("code", ["transport.timeout", "transport.throttled"])
def test_more_keys_do_not_make_jobs_that_fail_as_a_whole_more_frequent(
    code: str,
) -> None:
    whole = failure(code, "retry")
    one = run_scheduler(passing(600), whole=whole)
    world = run_scheduler(passing(600), *many(100), whole=whole)
    assert world.times == one.times


def test_evidence_that_is_refused_denies_keys_that_wait_for_the_limit_too() -> None:
    async def test(world: World) -> None:
        await world.clock.advance(60)
        assert len(world.reporter.held) == 25
        world.jobs.whole = failure("token.refused", "denied")
        world.scheduler.refresh(many(25))
        await world.clock.advance(310)

    world = run_scheduler(test, *many(25))
    assert world.reporter.held == {}
    assert len(world.jobs.asked) < 10


def test_a_failed_job_is_an_attempt_for_keys_that_wait_for_the_limit_too() -> None:
    async def test(world: World) -> None:
        await world.clock.advance(60)
        world.reporter.attempts.clear()
        world.jobs.whole = failure("transport.timeout", "retry", 600)
        world.scheduler.refresh(many(25))
        await world.clock.advance(0)

    assert sorted(run_scheduler(test, *many(25)).reporter.attempts) == sorted(many(25))


def test_a_failed_job_does_not_concern_a_waiting_key_that_was_dropped() -> None:
    async def test(world: World) -> None:
        await world.clock.advance(60)
        world.reporter.attempts.clear()
        world.jobs.whole = failure("transport.timeout", "retry", 600)
        world.jobs.while_running = lambda: world.scheduler.drop("key24")
        world.scheduler.refresh(many(25))
        await world.clock.advance(0)

    assert "key24" not in run_scheduler(test, *many(25)).reporter.attempts
