"""The supervisor with a clock that the test moves and jobs that the test decides."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from support.agent import (
    MID_JITTER,
    NOW,
    REFRESH_SECONDS,
    TOKEN_LIFE_SECONDS,
    FakeClock,
    attestation,
    failure,
    make_config,
    released_key,
    run,
    settle,
)

from skragent.agent import backoff, lifecycle
from skragent.agent.jobs import key_requests
from skragent.agent.runner import Release
from skragent.agent.supervisor import Supervisor
from skragent.errors import ReleaserError, SkrAgentError
from skragent.job import FailedKey, Failure, Result
from skragent.keyring import KeyState
from skragent.secretmem import create_arena

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from skragent.agent.launch import Launch
    from skragent.agent.lifecycle import Admission, KeyLife
    from skragent.job import Attestation, KeyRequest, ReleasedKey
    from skragent.secretmem import Arena


@dataclass
class Jobs:
    """Answers each key with its failure, if it has one; else it is released."""

    clock: FakeClock
    arena: Arena
    failures: dict[str, Failure] = field(default_factory=dict)
    keys: dict[str, ReleasedKey] = field(default_factory=dict)
    whole: Failure | SkrAgentError | None = None
    asked: list[tuple[float, tuple[str, ...]]] = field(default_factory=list)
    expires_at: float = NOW + TOKEN_LIFE_SECONDS

    async def run(
        self, keys: Sequence[KeyRequest], *, launched: Launch | None = None
    ) -> Release:
        del launched
        self.asked.append((self.clock.boot, tuple(key.alias for key in keys)))
        if isinstance(self.whole, SkrAgentError):
            raise self.whole
        return Release(self._result(keys), self.arena, self.clock.boot)

    def _result(self, keys: Sequence[KeyRequest]) -> Result:
        if isinstance(self.whole, Failure):
            return Result(failure=self.whole)
        return Result(
            attestation=attestation(expires_at=self.expires_at),
            released=tuple(
                self.keys.get(key.alias, released_key(key.alias))
                for key in keys
                if key.alias not in self.failures
            ),
            failed=tuple(
                FailedKey(alias=key.alias, failure=self.failures[key.alias])
                for key in keys
                if key.alias in self.failures
            ),
        )


@dataclass
class Holder:
    """Remembers what it was told, and so what would be served."""

    held: dict[str, ReleasedKey] = field(default_factory=dict)
    states: dict[str, KeyState] = field(default_factory=dict)
    waits: list[float] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)

    def hold(self, key: ReleasedKey, arena: Arena, attestation: Attestation) -> None:
        del arena, attestation
        self.held[key.alias] = key

    def not_admitted(self, key: ReleasedKey, admission: Admission) -> None:
        del key
        self.codes.append(admission.value)

    def changed(self, alias: str, life: KeyLife) -> None:
        self.states[alias] = life.state
        if not life.is_held:
            self.held.pop(alias, None)

    def key_failed(self, alias: str, error: SkrAgentError, seconds: float) -> None:
        del alias
        self.codes.append(error.code)
        self.waits.append(seconds)

    def job_failed(self, error: SkrAgentError, seconds: float) -> None:
        self.codes.append(error.code)
        self.waits.append(seconds)


@dataclass
class World:
    clock: FakeClock
    jobs: Jobs
    holder: Holder
    supervisor: Supervisor
    task: asyncio.Task[None]

    @property
    def times(self) -> list[float]:
        """When jobs began, counted from the first one."""
        return [moment - self.jobs.asked[0][0] for moment, _ in self.jobs.asked]


def supervise(
    test: Callable[[World], Coroutine[Any, Any, None]],
    *aliases: str,
    chance: float = MID_JITTER,
    **jobs: Any,  # noqa: ANN401 - the fields of Jobs
) -> World:
    """Run `test` beside a supervisor of these keys."""

    async def both() -> World:
        clock, holder = FakeClock(), Holder()
        world = Jobs(clock, create_arena(4096), **jobs)
        supervisor = Supervisor(
            key_requests(make_config(*aliases or ("disk",))),
            jobs=world,
            holder=holder,
            clock=clock,
            chance=lambda: chance,
        )
        task = asyncio.create_task(supervisor.run())
        await settle()
        together = World(clock, world, holder, supervisor, task)
        try:
            await test(together)
        finally:
            supervisor.stop()
            await asyncio.gather(task, return_exceptions=True)
        return together

    return run(both())


async def nothing(world: World) -> None:
    del world


def passing(seconds: float) -> Callable[[World], Coroutine[Any, Any, None]]:
    async def test(world: World) -> None:
        await world.clock.advance(seconds)

    return test


def test_the_first_job_is_at_once_and_for_all_keys() -> None:
    world = supervise(nothing, "disk", "signing")
    assert [aliases for _, aliases in world.jobs.asked] == [("disk", "signing")]
    assert world.holder.held.keys() == {"disk", "signing"}


def test_a_key_is_released_again_at_four_fifths_of_the_tokens_life() -> None:
    world = supervise(passing(REFRESH_SECONDS + 1))
    assert world.times == [0, REFRESH_SECONDS]


def test_a_wall_clock_set_ten_years_ahead_does_not_bring_it_forward() -> None:
    async def test(world: World) -> None:
        world.clock.wall += 10 * 365 * 86400
        await world.clock.advance(60)

    world = supervise(test)
    assert world.times == [0]
    assert world.holder.held.keys() == {"disk"}


def test_keys_that_were_released_together_are_released_together_again() -> None:
    world = supervise(passing(REFRESH_SECONDS + 1), "disk", "signing")
    assert world.jobs.asked[-1][1] == ("disk", "signing")


def test_a_job_that_fails_is_repeated_with_growing_waits() -> None:
    world = supervise(passing(40), whole=failure("transport.timeout", "retry"))
    assert world.holder.waits == [0.5, 1, 2, 4, 8, 16, 30]


def test_a_releaser_that_crashes_is_tried_again() -> None:
    crash = ReleaserError("x", code="releaser.crashed")
    world = supervise(passing(0.6), whole=crash)
    assert world.times == [0, 0.5]


def test_waits_begin_anew_after_a_success() -> None:
    async def test(world: World) -> None:
        await world.clock.advance(10)
        world.jobs.whole = None
        await world.clock.advance(10)
        world.jobs.whole = failure("transport.timeout", "retry")
        world.holder.waits.clear()
        await world.clock.advance(REFRESH_SECONDS)

    world = supervise(test, whole=failure("transport.timeout", "retry"))
    assert world.holder.waits[:2] == [0.5, 1]


def test_retry_after_is_obeyed() -> None:
    world = supervise(
        passing(80), whole=failure("transport.throttled", "retry", retry_after=70)
    )
    assert world.times == [0, 70 * (1 + backoff.RETRY_AFTER_SPREAD * MID_JITTER)]


def test_one_keys_failure_does_not_delay_another() -> None:
    failures = {"disk": failure("transport.timeout", "retry")}
    world = supervise(nothing, "disk", "signing", failures=failures)
    assert world.holder.held.keys() == {"signing"}


def test_only_the_key_that_failed_is_asked_for_again() -> None:
    failures = {"disk": failure("transport.timeout", "retry")}
    world = supervise(passing(0.6), "disk", "signing", failures=failures)
    assert world.jobs.asked[1][1] == ("disk",)


def test_a_held_key_survives_a_transient_fault_and_is_stale_when_overdue() -> None:
    async def test(world: World) -> None:
        world.jobs.whole = failure("transport.timeout", "retry")
        await world.clock.advance(TOKEN_LIFE_SECONDS + 1)
        assert world.holder.states["disk"] is KeyState.STALE

    assert supervise(test).holder.held.keys() == {"disk"}


def test_a_stale_key_is_dropped_after_max_stale() -> None:
    async def test(world: World) -> None:
        world.jobs.whole = failure("transport.timeout", "retry")
        await world.clock.advance(TOKEN_LIFE_SECONDS + lifecycle.MAX_STALE_SECONDS)

    world = supervise(test)
    assert world.holder.states["disk"] is KeyState.EXPIRED
    assert world.holder.held == {}


def test_health_followed_by_time_ends_in_current() -> None:
    async def test(world: World) -> None:
        world.jobs.whole = failure("transport.timeout", "retry")
        await world.clock.advance(TOKEN_LIFE_SECONDS + 1)
        world.jobs.whole = None
        await world.clock.advance(61)

    assert supervise(test).holder.states["disk"] is KeyState.CURRENT


def test_a_denial_is_confirmed_within_seconds_and_the_key_dropped() -> None:
    async def test(world: World) -> None:
        world.jobs.failures["disk"] = failure("release.denied", "denied")
        await world.clock.advance(REFRESH_SECONDS)
        assert world.holder.held.keys() == {"disk"}
        await world.clock.advance(backoff.CONFIRM_SECONDS)

    world = supervise(test)
    assert world.holder.states["disk"] is KeyState.DENIED
    assert world.holder.held == {}


def test_a_denial_that_is_not_confirmed_takes_nothing() -> None:
    async def test(world: World) -> None:
        world.jobs.failures["disk"] = failure("release.denied", "denied")
        await world.clock.advance(REFRESH_SECONDS)
        world.jobs.failures.clear()
        await world.clock.advance(backoff.CONFIRM_SECONDS)

    assert supervise(test).holder.states["disk"] is KeyState.CURRENT


def test_a_token_refused_twice_drops_every_key() -> None:
    async def test(world: World) -> None:
        world.jobs.whole = failure("token.refused", "denied")
        await world.clock.advance(REFRESH_SECONDS + backoff.CONFIRM_SECONDS)

    world = supervise(test, "disk", "signing")
    assert set(world.holder.states.values()) == {KeyState.DENIED}
    assert world.holder.held == {}


def test_a_denied_key_comes_back_when_it_is_allowed_again() -> None:
    async def test(world: World) -> None:
        await world.clock.advance(10)
        assert world.holder.states["disk"] is KeyState.DENIED
        world.jobs.failures.clear()
        await world.clock.advance(900)

    failures = {"disk": failure("release.denied", "denied")}
    world = supervise(test, failures=failures)
    assert world.holder.states["disk"] is KeyState.CURRENT


def test_a_confirmed_denial_is_asked_about_rarely() -> None:
    failures = {"disk": failure("release.denied", "denied")}
    world = supervise(passing(3600), failures=failures)
    assert world.holder.waits[-1] == 450
    assert len(world.times) < 15


def test_a_disabled_key_is_dropped() -> None:
    async def test(world: World) -> None:
        world.jobs.keys["disk"] = released_key(enabled=False)
        await world.clock.advance(REFRESH_SECONDS + backoff.CONFIRM_SECONDS)

    world = supervise(test)
    assert world.holder.held == {}
    assert world.holder.codes[0] == "release.denied.disabled"


def test_a_key_is_dropped_at_its_own_exp_and_asked_for_again() -> None:
    keys = {"disk": released_key(expires=NOW + 100)}
    world = supervise(passing(100), keys=keys)
    assert world.holder.held == {}
    assert world.times == [0, 100]
    assert world.holder.codes == ["release.expired"]


def test_a_wall_clock_that_jumps_past_exp_is_noticed() -> None:
    async def test(world: World) -> None:
        world.clock.wall += 1000
        await world.clock.advance(10)

    world = supervise(test, keys={"disk": released_key(expires=NOW + 500)})
    assert world.holder.held == {}


def test_a_key_that_is_not_valid_yet_is_asked_for_when_it_is() -> None:
    world = supervise(passing(51), keys={"disk": released_key(not_before=NOW + 50)})
    assert world.times == [0, 50]
    assert world.holder.held.keys() == {"disk"}


def test_a_fatal_failure_of_the_job_ends_the_supervisor_with_its_error() -> None:
    async def test(world: World) -> None:
        with pytest.raises(SkrAgentError) as caught:
            await world.task
        assert caught.value.code == "evidence.not_a_cvm"

    world = supervise(test, whole=failure("evidence.not_a_cvm", "fatal"))
    assert world.times == [0]


def test_a_fatal_failure_of_one_key_does_not_end_the_others() -> None:
    failures = {"disk": failure("release", "fatal")}
    world = supervise(passing(1), "disk", "signing", failures=failures)
    assert world.holder.held.keys() == {"signing"}
    assert world.holder.states["disk"] is KeyState.DENIED


def test_stopping_cuts_a_long_wait_short() -> None:
    async def test(world: World) -> None:
        world.supervisor.stop()
        await asyncio.wait_for(world.task, 5)

    supervise(test)


def test_stopping_cuts_a_backoff_short() -> None:
    async def test(world: World) -> None:
        world.supervisor.stop()
        await asyncio.wait_for(world.task, 5)

    supervise(test, whole=failure("transport.throttled", "retry", retry_after=600))


def test_a_token_that_lives_no_time_does_not_make_a_tight_circle() -> None:
    world = supervise(passing(60), expires_at=NOW - 1)
    assert len(world.times) < 61


def test_a_bug_in_the_jobs_ends_the_supervisor() -> None:
    async def test(world: World) -> None:
        with pytest.raises(ExplodedError):
            await world.task

    class ExplodedError(Exception):
        pass

    class Answers(dict[str, Failure]):
        def __contains__(self, key: object) -> bool:
            raise ExplodedError

    supervise(test, failures=Answers())
