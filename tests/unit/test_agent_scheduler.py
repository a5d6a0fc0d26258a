"""When jobs run, and what becomes of the keys (support/agent_scheduler.py)."""

from __future__ import annotations

import asyncio

import pytest
from support.agent import (
    BOOTTIME,
    MID_JITTER,
    NOW,
    REFRESH_SECONDS,
    TOKEN_LIFE_SECONDS,
    failure,
    released_key,
    settle,
)
from support.agent_scheduler import World, nothing, passing, run_scheduler

from skragent.agent import due_times, key_records
from skragent.errors import AgentError, ReleaserError
from skragent.job import AkCertificate, Failure, Result
from skragent.keyring import KeyState


def test_the_first_job_is_at_once_and_for_all_keys() -> None:
    world = run_scheduler(nothing, "disk", "signing")
    assert [aliases for _, aliases in world.jobs.asked] == [("disk", "signing")]
    assert world.reporter.held.keys() == {"disk", "signing"}


def test_a_key_is_released_again_at_four_fifths_of_the_tokens_life() -> None:
    world = run_scheduler(passing(REFRESH_SECONDS + 1))
    assert world.times == [0, REFRESH_SECONDS]


def test_a_wall_clock_set_ten_years_ahead_does_not_bring_it_forward() -> None:
    async def test(world: World) -> None:
        world.clock.wall += 10 * 365 * 86400
        await world.clock.advance(60)

    world = run_scheduler(test)
    assert world.times == [0]
    assert world.reporter.held.keys() == {"disk"}


def test_keys_that_were_released_together_are_released_together_again() -> None:
    world = run_scheduler(passing(REFRESH_SECONDS + 1), "disk", "signing")
    assert world.jobs.asked[-1][1] == ("disk", "signing")


def test_a_job_that_fails_is_repeated_with_growing_waits() -> None:
    world = run_scheduler(passing(40), whole=failure("transport.timeout", "retry"))
    assert world.reporter.waits == [0.5, 1, 2, 4, 8, 16, 30]


def test_a_releaser_that_crashes_is_tried_again() -> None:
    crash = ReleaserError("x", code="releaser.crashed")
    world = run_scheduler(passing(0.6), whole=crash)
    assert world.times == [0, 0.5]


def test_waits_begin_anew_after_a_success() -> None:
    async def test(world: World) -> None:
        await world.clock.advance(10)
        world.jobs.whole = None
        await world.clock.advance(10)
        world.jobs.whole = failure("transport.timeout", "retry")
        world.reporter.waits.clear()
        await world.clock.advance(REFRESH_SECONDS)

    world = run_scheduler(test, whole=failure("transport.timeout", "retry"))
    assert world.reporter.waits[:2] == [0.5, 1]


def test_retry_after_is_obeyed() -> None:
    world = run_scheduler(
        passing(80), whole=failure("transport.throttled", "retry", retry_after=70)
    )
    assert world.times == [0, 70 * (1 + due_times.RETRY_AFTER_JITTER * MID_JITTER)]


def test_a_retry_after_of_a_failed_job_delays_every_key() -> None:
    async def test(world: World) -> None:
        world.jobs.whole = failure("transport.throttled", "retry", retry_after=100)
        world.scheduler.refresh(["disk"])
        await world.clock.advance(106)

    keys = {"signing": released_key("signing", expires=NOW + 10)}
    world = run_scheduler(test, "disk", "signing", keys=keys)
    assert world.times == [0, 0, 105]
    assert world.jobs.asked[-1][1] == ("disk", "signing")


def test_the_keys_of_failing_jobs_become_one_batch() -> None:
    async def test(world: World) -> None:
        world.jobs.whole = failure("transport.timeout", "retry")
        world.scheduler.refresh(["disk"])
        await world.clock.advance(600)

    keys = {"signing": released_key("signing", expires=NOW + 100)}
    world = run_scheduler(test, "disk", "signing", keys=keys)
    assert {aliases for _, aliases in world.jobs.asked[-5:]} == {("disk", "signing")}


def test_the_backoff_of_a_key_that_crashes_its_jobs_delays_no_healthy_key() -> None:
    async def test(world: World) -> None:
        world.jobs.poison = "disk"
        world.scheduler.refresh(["disk"])
        await world.clock.advance(999)
        world.jobs.asked.clear()
        await world.clock.advance(2)

    keys = {"signing": released_key("signing", expires=NOW + 1000)}
    world = run_scheduler(test, "disk", "signing", keys=keys)
    assert ("signing",) in [aliases for _, aliases in world.jobs.asked]


def test_an_outage_does_not_bring_a_key_that_crashes_its_jobs_into_a_batch() -> None:
    async def test(world: World) -> None:
        world.jobs.poison = "disk"
        world.scheduler.refresh(["disk", "signing"])
        await world.clock.advance(60)
        # Its jobs do not reach the point at which they crash.
        world.jobs.poison, world.jobs.whole = "", failure("transport.timeout", "retry")
        await world.clock.advance(REFRESH_SECONDS)
        world.jobs.poison, world.jobs.whole = "disk", None
        world.jobs.asked.clear()
        await world.clock.advance(600)

    world = run_scheduler(test, "disk", "signing")
    assert {aliases for _, aliases in world.jobs.asked} == {("disk",), ("signing",)}


# Of IMDS, which is back within 70 s after its 410.
UPDATING = failure("identity.unavailable", "retry", retry_after=70)


def test_a_key_whose_identity_is_being_updated_is_requested_when_that_is_over() -> None:
    world = run_scheduler(passing(78), "disk", "signing", failures={"disk": UPDATING})
    assert world.times == [0, 70 * (1 + due_times.RETRY_AFTER_JITTER * MID_JITTER)]
    assert world.jobs.asked[-1][1] == ("disk",)


THROTTLED = failure("transport.throttled", "retry")


def test_a_throttled_key_waits_longer_each_time() -> None:
    world = run_scheduler(passing(45), failures={"disk": THROTTLED})
    assert world.reporter.waits == pytest.approx([10, 11, 12.1, 13.31])


def test_a_429_of_another_service_has_the_short_backoff() -> None:
    world = run_scheduler(passing(40), whole=THROTTLED)  # by IMDS, or the verifier
    assert world.reporter.waits == [0.5, 1, 2, 4, 8, 16, 30]


def test_the_backoff_after_a_429_begins_anew_after_a_success() -> None:
    async def test(world: World) -> None:
        await world.clock.advance(30)
        world.jobs.failures.clear()
        await world.clock.advance(30)
        world.jobs.failures["disk"] = THROTTLED
        world.reporter.waits.clear()
        await world.clock.advance(REFRESH_SECONDS)

    world = run_scheduler(test, failures={"disk": THROTTLED})
    assert world.reporter.waits[0] == pytest.approx(10)


def test_an_outage_does_not_lengthen_the_backoff_after_a_429() -> None:
    async def test(world: World) -> None:
        await world.clock.advance(3600)
        world.jobs.failures["disk"] = THROTTLED
        world.reporter.waits.clear()
        await world.clock.advance(60)

    world = run_scheduler(test, failures={"disk": failure("transport.server", "retry")})
    assert world.reporter.waits[0] == pytest.approx(10)


def test_one_keys_failure_does_not_delay_another() -> None:
    failures = {"disk": failure("transport.timeout", "retry")}
    world = run_scheduler(nothing, "disk", "signing", failures=failures)
    assert world.reporter.held.keys() == {"signing"}


def test_only_the_key_that_failed_is_requested_again() -> None:
    failures = {"disk": failure("transport.timeout", "retry")}
    world = run_scheduler(passing(0.6), "disk", "signing", failures=failures)
    assert world.jobs.asked[1][1] == ("disk",)


def test_a_held_key_survives_a_transient_fault_and_is_stale_when_overdue() -> None:
    async def test(world: World) -> None:
        world.jobs.whole = failure("transport.timeout", "retry")
        await world.clock.advance(TOKEN_LIFE_SECONDS + 1)
        assert world.reporter.states["disk"] is KeyState.STALE

    assert run_scheduler(test).reporter.held.keys() == {"disk"}


def test_a_stale_key_is_dropped_after_max_stale() -> None:
    async def test(world: World) -> None:
        world.jobs.whole = failure("transport.timeout", "retry")
        await world.clock.advance(
            TOKEN_LIFE_SECONDS + key_records.KeyLifetimePolicy().max_stale_seconds
        )

    world = run_scheduler(test)
    assert world.reporter.states["disk"] is KeyState.EXPIRED
    assert world.reporter.held == {}


def test_health_followed_by_time_ends_in_current() -> None:
    async def test(world: World) -> None:
        world.jobs.whole = failure("transport.timeout", "retry")
        await world.clock.advance(TOKEN_LIFE_SECONDS + 1)
        world.jobs.whole = None
        await world.clock.advance(61)

    assert run_scheduler(test).reporter.states["disk"] is KeyState.CURRENT


def test_a_denial_is_confirmed_within_seconds_and_the_key_dropped() -> None:
    async def test(world: World) -> None:
        world.jobs.failures["disk"] = failure("release.denied.policy", "denied")
        await world.clock.advance(REFRESH_SECONDS)
        assert world.reporter.held.keys() == {"disk"}
        await world.clock.advance(due_times.CONFIRM_SECONDS)

    world = run_scheduler(test)
    assert world.reporter.states["disk"] is KeyState.DENIED
    assert world.reporter.held == {}


@pytest.mark.parametrize(
    "code", ["release.denied", "release.denied.firewall", "release.denied.connection"]
)
def test_an_unclear_denial_is_confirmed_after_five_minutes(code: str) -> None:
    async def test(world: World) -> None:
        world.jobs.failures["disk"] = failure(code, "denied")
        await world.clock.advance(REFRESH_SECONDS)
        assert world.reporter.wiped_in["disk"] == 300
        await world.clock.advance(299)
        assert world.reporter.held.keys() == {"disk"}
        await world.clock.advance(1 + due_times.CONFIRM_SECONDS)

    world = run_scheduler(test)
    assert world.reporter.states["disk"] is KeyState.DENIED
    assert world.reporter.held == {}


def test_a_denial_that_is_not_confirmed_takes_nothing() -> None:
    async def test(world: World) -> None:
        world.jobs.failures["disk"] = failure("release.denied", "denied")
        await world.clock.advance(REFRESH_SECONDS)
        world.jobs.failures.clear()
        await world.clock.advance(due_times.CONFIRM_SECONDS)

    assert run_scheduler(test).reporter.states["disk"] is KeyState.CURRENT


def test_a_token_that_a_vault_cannot_verify_takes_nothing_however_often() -> None:
    async def test(world: World) -> None:
        world.jobs.failures["disk"] = failure("release.unverified", "reattest")
        await world.clock.advance(REFRESH_SECONDS + 1000)
        assert len(world.times) > 20  # each with another token
        assert world.reporter.held.keys() == {"disk"}
        world.jobs.failures.clear()
        await world.clock.advance(60)

    world = run_scheduler(test)
    assert world.reporter.states["disk"] is KeyState.CURRENT
    assert world.times[-1] > REFRESH_SECONDS + 1000


def test_a_role_that_takes_ten_minutes_to_apply_is_noticed_in_as_many_more() -> None:
    async def test(world: World) -> None:
        await world.clock.advance(600)
        assert world.reporter.states["disk"] is KeyState.DENIED
        world.jobs.failures.clear()
        await world.clock.advance(600)

    denied = failure("release.denied.permission", "denied")
    world = run_scheduler(test, failures={"disk": denied}, random=1.0)  # the latest
    assert world.reporter.held.keys() == {"disk"}


def test_a_refresh_requests_a_denied_key_at_once() -> None:
    async def test(world: World) -> None:
        await world.clock.advance(3600)
        assert world.reporter.states["disk"] is KeyState.DENIED
        world.jobs.failures.clear()
        world.scheduler.refresh(["disk"])
        await world.clock.advance(0)

    denied = failure("release.denied.permission", "denied")
    world = run_scheduler(test, failures={"disk": denied})
    assert world.reporter.held.keys() == {"disk"}


def test_evidence_refused_for_five_minutes_drops_every_key() -> None:
    async def test(world: World) -> None:
        world.jobs.whole = failure("token.refused", "denied")
        await world.clock.advance(REFRESH_SECONDS + 299)
        assert world.reporter.held.keys() == {"disk", "signing"}
        await world.clock.advance(1 + due_times.CONFIRM_SECONDS)

    world = run_scheduler(test, "disk", "signing")
    assert set(world.reporter.states.values()) == {KeyState.DENIED}
    assert world.reporter.held == {}


def test_a_denied_key_comes_back_when_it_is_allowed_again() -> None:
    async def test(world: World) -> None:
        await world.clock.advance(10)
        assert world.reporter.states["disk"] is KeyState.DENIED
        world.jobs.failures.clear()
        await world.clock.advance(900)

    failures = {"disk": failure("release.denied.policy", "denied")}
    world = run_scheduler(test, failures=failures)
    assert world.reporter.states["disk"] is KeyState.CURRENT


def test_a_confirmed_denial_is_retried_rarely() -> None:
    failures = {"disk": failure("release.denied", "denied")}
    world = run_scheduler(passing(3600), failures=failures)
    assert world.reporter.waits[-1] == 450
    assert len(world.times) < 15


def test_a_disabled_key_is_dropped() -> None:
    async def test(world: World) -> None:
        world.jobs.keys["disk"] = released_key(enabled=False)
        await world.clock.advance(REFRESH_SECONDS + due_times.CONFIRM_SECONDS)

    world = run_scheduler(test)
    assert world.reporter.held == {}
    assert world.reporter.codes[0] == "release.denied.disabled"


def test_a_key_is_dropped_at_its_own_exp_and_requested_again() -> None:
    keys = {"disk": released_key(expires=NOW + 100)}
    world = run_scheduler(passing(100), keys=keys)
    assert world.reporter.held == {}
    assert world.times == [0, 100]
    assert world.reporter.codes == ["release.expired"]


def test_a_wall_clock_that_jumps_past_exp_is_noticed() -> None:
    async def test(world: World) -> None:
        world.clock.wall += 1000
        await world.clock.advance(10)

    world = run_scheduler(test, keys={"disk": released_key(expires=NOW + 500)})
    assert world.reporter.held == {}


def test_a_key_that_is_not_valid_yet_is_requested_when_it_is() -> None:
    world = run_scheduler(passing(51), keys={"disk": released_key(not_before=NOW + 50)})
    assert world.times[-1] == 50
    assert world.reporter.held.keys() == {"disk"}


NOT_A_CVM = failure("evidence.not_a_cvm", "fatal")


def test_a_fatal_failure_that_is_repeated_at_start_ends_the_scheduler() -> None:
    async def test(world: World) -> None:
        await world.clock.advance(due_times.CONFIRM_SECONDS)
        with pytest.raises(AgentError) as caught:
            await world.task
        assert caught.value.code == "evidence.not_a_cvm"

    world = run_scheduler(test, whole=NOT_A_CVM)
    assert len(world.times) == 2


def test_one_fatal_failure_at_start_is_retried() -> None:
    async def test(world: World) -> None:
        world.jobs.whole = None
        await world.clock.advance(due_times.CONFIRM_SECONDS)

    world = run_scheduler(test, whole=NOT_A_CVM)
    assert world.reporter.held.keys() == {"disk"}


def test_a_fault_between_two_fatal_failures_at_start_begins_the_count_anew() -> None:
    async def test(world: World) -> None:
        world.jobs.whole = failure("transport.timeout", "retry")
        await world.clock.advance(due_times.CONFIRM_SECONDS)
        world.jobs.whole = NOT_A_CVM
        await world.clock.advance(2)
        assert not world.task.done()

    run_scheduler(test, whole=NOT_A_CVM)


@pytest.mark.parametrize("code", ["evidence.not_a_cvm", "config.invalid"])
def test_a_fatal_failure_at_a_refresh_keeps_every_key_however_often(code: str) -> None:
    async def test(world: World) -> None:
        world.jobs.whole = failure(code, "fatal")
        await world.clock.advance(REFRESH_SECONDS + 3600)
        assert world.reporter.codes.count(code) > 4
        assert world.reporter.held.keys() == {"disk"}
        world.jobs.whole = None
        await world.clock.advance(900)

    assert run_scheduler(test).reporter.states["disk"] is KeyState.CURRENT


def test_a_fatal_failure_of_one_key_is_retried_like_a_fault() -> None:
    failures = {"disk": failure("release", "fatal")}
    world = run_scheduler(passing(1), "disk", "signing", failures=failures)
    assert world.reporter.held.keys() == {"signing"}
    assert world.scheduler.records["disk"].state is KeyState.WAITING


def test_keys_that_were_delivered_before_a_job_crashed_are_held() -> None:
    async def test(world: World) -> None:
        assert world.reporter.held.keys() == {"disk", "mail"}
        await world.clock.advance(100)
        assert world.jobs.asked[0][1] == ("disk", "signing", "mail")
        assert all(keys == ("signing",) for _, keys in world.jobs.asked[1:])

    down = {"signing": failure("transport.timeout", "retry")}
    run_scheduler(
        *(test, "disk", "signing", "mail"), failures=down, crashes_after="signing"
    )


def test_stopping_cuts_a_long_wait_short() -> None:
    async def test(world: World) -> None:
        world.scheduler.stop()
        await asyncio.wait_for(world.task, 5)

    run_scheduler(test)


def test_stopping_cuts_a_backoff_short() -> None:
    async def test(world: World) -> None:
        world.scheduler.stop()
        await asyncio.wait_for(world.task, 5)

    run_scheduler(test, whole=failure("transport.throttled", "retry", retry_after=600))


def test_stopping_waits_for_the_job_that_runs() -> None:
    """Its releaser may be writing the AK certificate; the runner ends it in time."""

    async def test(world: World) -> None:
        may_end = asyncio.Event()

        async def renew(_: str) -> Result:
            await may_end.wait()
            ended.append("")
            return Result()

        world.jobs.renew = renew  # type: ignore[method-assign, assignment]
        world.jobs.ak_certificate = AkCertificate(expires_at=NOW, is_renewal_due=True)
        world.scheduler.refresh(["disk"])
        await settle()
        world.scheduler.stop()
        await settle()
        assert not world.task.done()
        may_end.set()
        await asyncio.wait_for(world.task, 5)
        assert ended == [""]

    ended: list[str] = []
    run_scheduler(test)


def test_a_token_without_a_lifetime_causes_no_tight_loop() -> None:
    world = run_scheduler(passing(60), expires_at=NOW - 1)
    assert len(world.times) < 61


def test_a_bug_in_the_jobs_ends_the_scheduler() -> None:
    async def test(world: World) -> None:
        with pytest.raises(ExplodedError):
            await world.task

    class ExplodedError(Exception):
        pass

    class Answers(dict[str, Failure]):
        def __contains__(self, key: object) -> bool:
            raise ExplodedError

    run_scheduler(test, failures=Answers())


def test_a_refresh_is_at_once_and_for_the_keys_that_are_named() -> None:
    async def test(world: World) -> None:
        await world.clock.advance(60)
        world.scheduler.refresh(["signing"])
        await world.clock.advance(1)

    world = run_scheduler(test, "disk", "signing")
    assert world.jobs.asked[1:] == [(BOOTTIME + 60, ("signing",))]


def test_a_refresh_cuts_a_backoff_short() -> None:
    async def test(world: World) -> None:
        await world.clock.advance(25)  # in the middle of the wait of 16 s
        world.jobs.whole = None
        world.scheduler.refresh(["disk"])
        await world.clock.advance(0)

    world = run_scheduler(test, whole=failure("transport.timeout", "retry"))
    assert world.reporter.held.keys() == {"disk"}


def test_a_dropped_key_is_wiped_and_not_requested_again() -> None:
    async def test(world: World) -> None:
        world.scheduler.drop("disk")
        await world.clock.advance(3 * TOKEN_LIFE_SECONDS)

    world = run_scheduler(test, "disk", "signing")
    assert world.reporter.held.keys() == {"signing"}
    assert world.reporter.states["disk"] is KeyState.DROPPED
    assert all(aliases == ("signing",) for _, aliases in world.jobs.asked[1:])


def test_a_dropped_key_comes_back_when_it_is_refreshed() -> None:
    async def test(world: World) -> None:
        world.scheduler.drop("disk")
        await world.clock.advance(60)
        world.scheduler.refresh(["disk"])
        await world.clock.advance(1)

    world = run_scheduler(test)
    assert world.reporter.held.keys() == {"disk"}
    assert world.scheduler.records["disk"].state is KeyState.CURRENT


@pytest.mark.parametrize("fails", [False, True])
def test_a_key_that_is_dropped_while_a_job_runs_does_not_come_back(
    *, fails: bool
) -> None:
    async def test(world: World) -> None:
        world.jobs.while_running = lambda: world.scheduler.drop("disk")
        world.scheduler.refresh(["disk"])
        await world.clock.advance(60)

    failures = {"disk": failure("release.denied", "denied")} if fails else {}
    world = run_scheduler(test, failures=failures)
    assert world.reporter.held.keys() == set()
    assert world.scheduler.records["disk"].state is KeyState.DROPPED


def test_a_job_that_fails_after_its_key_was_dropped_is_not_repeated() -> None:
    async def test(world: World) -> None:
        world.jobs.while_running = lambda: world.scheduler.drop("disk")
        world.jobs.whole = failure("transport.timeout", "retry")
        world.scheduler.refresh(["disk"])
        await world.clock.advance(3600)

    world = run_scheduler(test)
    assert len(world.jobs.asked) == 2
    assert world.scheduler.records["disk"].state is KeyState.DROPPED


def test_notifications_that_systemd_could_not_receive_are_repeated() -> None:
    async def test(world: World) -> None:
        before = world.reporter.repetitions
        await world.clock.advance(10)
        assert world.reporter.repetitions > before

    run_scheduler(test)
