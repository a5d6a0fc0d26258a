"""When the AK certificate is plan_after_success, and what comes of it."""

from __future__ import annotations

import asyncio
import math

import msgspec
import pytest
from support.agent import NOW, REFRESH_SECONDS, failure
from support.agent_scheduler import World, run_scheduler

from skragent.agent.ak_renewal import (
    QUERY_AFTER_SECONDS,
    REPEAT_SECONDS,
    RenewalPlan,
    backoff_seconds,
    plan_after_failure,
    plan_after_success,
    plan_query,
    plan_renewal,
)
from skragent.agent.due_times import CONFIRM_SECONDS
from skragent.agent.jobs import SHORT_JOB_SECONDS
from skragent.agent.key_records import KeyLifetimePolicy
from skragent.errors import ReleaserError, TransportError
from skragent.job import AkCertificate, Result

DUE = AkCertificate(expires_at=NOW + 86400, is_renewal_due=True)
GOOD = AkCertificate(expires_at=NOW + 365 * 86400)
ORDER = "6f0e8c1d-0000-4000-8000-000000000000"
FAILED = Result(failure=failure("transport.server", "retry"))


async def an_hour(world: World) -> None:
    await world.clock.advance(3600)


async def until_the_next_job(world: World) -> None:
    await world.clock.advance(REFRESH_SECONDS)


def times(world: World) -> list[float]:
    """When renewals were tried, counted from the first job."""
    began = world.jobs.asked[0][0]
    return [moment - began for moment, _ in world.jobs.renewed]


def test_a_certificate_that_holds_is_not_renewed() -> None:
    world = run_scheduler(an_hour, ak_certificate=GOOD)
    assert world.jobs.renewed == []
    assert world.reporter.certificates == [GOOD]


def test_one_that_ends_soon_is_renewed_after_the_job_that_says_so() -> None:
    world = run_scheduler(
        an_hour, ak_certificate=DUE, renewals=[Result(ak_certificate=GOOD)]
    )
    assert world.jobs.renewed == [(world.jobs.asked[0][0], "")]
    assert world.reporter.certificates == [DUE, GOOD]
    assert world.reporter.renewals == [""]


def test_keys_do_not_wait_for_a_renewal() -> None:
    world = run_scheduler(an_hour, ak_certificate=DUE, renewals=[FAILED] * 9)
    assert world.times == [0]
    assert "disk" in world.reporter.held


def hang(world: World) -> None:
    """Have renewals take all the time that they get."""

    async def renew(query_id: str) -> Result:
        world.jobs.renewed.append((world.clock.boot, query_id))
        await world.clock.wait(asyncio.Event(), SHORT_JOB_SECONDS)
        return FAILED

    world.jobs.renew = renew  # type: ignore[method-assign]


def test_the_confirmation_of_a_denial_does_not_wait_for_a_renewal_that_hangs() -> None:
    async def test(world: World) -> None:
        hang(world)
        await world.clock.advance(100)
        world.jobs.ak_certificate = DUE
        world.jobs.failures["disk"] = failure("release.denied.policy", "denied")
        world.scheduler.refresh(["disk"])
        await world.clock.advance(CONFIRM_SECONDS)
        assert world.jobs.renewed == []
        assert "disk" not in world.reporter.held
        await world.clock.advance(REPEAT_SECONDS)
        assert world.jobs.renewed

    run_scheduler(test)


def test_where_a_key_is_always_due_soon_it_is_renewed_an_hour_later() -> None:
    async def test(world: World) -> None:
        world.jobs.ak_certificate = DUE
        world.jobs.renewals = [Result(ak_certificate=GOOD)]
        for _ in range(400):
            world.scheduler.refresh(["disk"])
            await world.clock.advance(10)

    policy = KeyLifetimePolicy(refresh_seconds=20)
    world = run_scheduler(test, policy=policy)
    assert REPEAT_SECONDS <= times(world)[0] < REPEAT_SECONDS + 60


def test_where_no_job_succeeds_it_is_renewed_all_the_same() -> None:
    """A verifier may refuse a certificate that has ended."""

    async def test(world: World) -> None:
        await world.clock.advance(2)
        assert world.reporter.renewals == [""]
        world.jobs.whole = None
        await world.clock.advance(60)

    world = run_scheduler(
        test,
        whole=failure("token.refused", "denied"),
        ak_certificate=DUE,
        renewals=[Result(ak_certificate=GOOD)],
    )
    assert "disk" in world.reporter.held


def test_an_ordered_certificate_is_fetched_a_minute_later() -> None:
    world = run_scheduler(
        an_hour,
        ak_certificate=DUE,
        renewals=[
            Result(ak_certificate=DUE, ak_query_id=ORDER),
            Result(ak_certificate=GOOD),
        ],
    )
    assert times(world) == [0, QUERY_AFTER_SECONDS]
    assert [order for _, order in world.jobs.renewed] == ["", ORDER]
    assert world.reporter.renewals == [""]


def test_an_order_that_never_comes_is_given_anew_after_four_questions() -> None:
    order = Result(ak_certificate=DUE, ak_query_id=ORDER)
    world = run_scheduler(
        an_hour,
        ak_certificate=DUE,
        renewals=[order, *[FAILED] * 4, order, *[FAILED] * 9],
    )
    orders = [order for _, order in world.jobs.renewed]
    assert orders[:6] == ["", ORDER, ORDER, ORDER, ORDER, ""]


def test_one_that_failed_is_tried_again_more_and_more_seldom() -> None:
    async def a_day(world: World) -> None:
        await world.clock.advance(86400)

    world = run_scheduler(a_day, ak_certificate=DUE, renewals=[FAILED] * 50)
    pauses = [b - a for a, b in zip(times(world), times(world)[1:], strict=False)]
    # Mid chance: three quarters of 60 s, 120 s, ... one hour.
    assert pauses[:7] == [45, 90, 180, 360, 720, 1440, 2700]
    assert set(pauses[7:]) == {2700}
    assert world.reporter.renewals[0] == "transport.server"


def test_a_renewal_that_crashes_is_a_failure_like_others() -> None:
    async def test(world: World) -> None:
        async def crash(_query_id: str) -> Result:
            raise ReleaserError("x", code="releaser.crashed")

        world.jobs.renew = crash  # type: ignore[method-assign, assignment]
        world.jobs.ak_certificate = DUE
        world.scheduler.refresh(["disk"])
        await world.clock.advance(1)

    world = run_scheduler(test)
    assert world.reporter.renewals == ["releaser.crashed"]
    assert "disk" in world.reporter.held


def test_a_fatal_failure_of_a_renewal_ends_nothing() -> None:
    async def test(world: World) -> None:
        await world.clock.advance(1)
        assert not world.task.done()

    fatal = Result(failure=failure("evidence.tpm", "fatal"))
    world = run_scheduler(test, ak_certificate=DUE, renewals=[fatal])
    assert world.reporter.renewals == ["evidence.tpm"]


def test_a_new_certificate_that_ends_soon_too_is_renewed_later_on() -> None:
    world = run_scheduler(
        an_hour,
        ak_certificate=DUE,
        renewals=[Result(ak_certificate=DUE), Result(ak_certificate=GOOD)],
    )
    assert times(world) == [0, REPEAT_SECONDS]


def test_a_plan_ends_if_another_program_renews_the_certificate() -> None:
    async def test(world: World) -> None:
        await world.clock.advance(1)
        world.jobs.ak_certificate = GOOD
        world.scheduler.refresh(["disk"])
        await world.clock.advance(86400)

    world = run_scheduler(test, ak_certificate=DUE, renewals=[FAILED])
    assert len(world.jobs.renewed) == 1


def test_a_job_that_says_nothing_of_it_changes_no_plan() -> None:
    async def test(world: World) -> None:
        await world.clock.advance(1)
        world.jobs.ak_certificate = None
        world.scheduler.refresh(["disk"])
        await world.clock.advance(60)

    answers = [FAILED, Result(ak_certificate=GOOD)]
    world = run_scheduler(test, ak_certificate=DUE, renewals=answers)
    assert len(world.jobs.renewed) == 2


def test_a_renewal_that_is_planned_is_not_planned_anew() -> None:
    plan = plan_query(RenewalPlan(), ORDER, 100.0)
    assert plan_renewal(plan, DUE, 110.0) == plan
    assert plan_renewal(RenewalPlan(), DUE, 110.0) == RenewalPlan(due_at=110.0)
    assert plan_renewal(plan, GOOD, 110.0) == RenewalPlan()


def test_after_a_renewal_nothing_is_planned() -> None:
    assert (
        plan_after_success(GOOD, 100.0)
        == plan_after_success(None, 100.0)
        == RenewalPlan()
    )
    assert plan_after_success(DUE, 100.0).due_at == 100.0 + REPEAT_SECONDS


def test_a_restored_certificate_is_reported_by_every_kind_of_job() -> None:
    restored = Result(ak_certificate=GOOD, ak_restored=True)
    world = run_scheduler(an_hour, ak_certificate=DUE, renewals=[restored])
    assert world.reporter.restored == 1

    failed_after = msgspec.structs.replace(FAILED, ak_restored=True)
    world = run_scheduler(
        an_hour, ak_certificate=DUE, renewals=[failed_after, *[FAILED] * 9]
    )
    assert world.reporter.restored == 1

    async def test(world: World) -> None:
        world.jobs.is_ak_restored = True
        world.scheduler.refresh(["disk"])
        await world.clock.advance(1)

    world = run_scheduler(test)
    assert world.reporter.restored == 1


def test_an_order_survives_its_first_failures() -> None:
    plan = plan_query(RenewalPlan(failures=5), ORDER, 0.0)
    for count in range(1, 4):
        plan = plan_after_failure(plan, 100.0, 7.0)
        assert plan == RenewalPlan(
            107.0, ORDER, failed_queries=count, failures=5 + count
        )
    assert plan_after_failure(plan, 100.0, 7.0) == RenewalPlan(107.0, failures=9)


def test_orders_that_never_come_are_given_more_and_more_seldom_too() -> None:
    async def a_day(world: World) -> None:
        async def renew(query_id: str) -> Result:
            world.jobs.renewed.append((world.clock.boot, query_id))
            return FAILED if query_id else order

        world.jobs.renew = renew  # type: ignore[method-assign]
        world.jobs.ak_certificate = DUE
        world.scheduler.refresh(["disk"])
        await world.clock.advance(86400)

    order = Result(ak_certificate=DUE, ak_query_id=ORDER)
    world = run_scheduler(a_day)
    assert len(world.jobs.renewed) < 60


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
def test_a_retry_after_puts_a_renewal_off(jitter: float) -> None:
    error = TransportError("x", code="transport.throttled", retry_after=500)
    seconds = backoff_seconds(error, failures=1, jitter=jitter)
    assert seconds == pytest.approx(500 * (1 + 0.1 * jitter))
    late = backoff_seconds(error, failures=9, jitter=jitter)
    assert late == pytest.approx(3600 * (1 + jitter) / 2)
    assert late < math.inf
