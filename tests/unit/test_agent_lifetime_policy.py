"""What the configuration may say of a key's life, and that it is so."""

from __future__ import annotations

import pytest
from support.agent import (
    REFRESH_SECONDS,
    TOKEN_LIFE_SECONDS,
    failure,
    make_config,
)
from support.agent_scheduler import World, run_scheduler

from skragent.agent import due_times
from skragent.agent.jobs import key_requests
from skragent.agent.key_records import KeyLifetimePolicy, lifetime_policies
from skragent.config import parse_config
from skragent.keyring import KeyState

DENIED = failure("release.denied.policy", "denied")
DOWN = failure("transport.timeout", "retry")
HOUR = 3600.0
DAY = 24 * HOUR


async def be_denied(world: World) -> None:
    """Let the vault deny the key at its refresh, and confirm that."""
    world.jobs.failures["disk"] = DENIED
    await world.clock.advance(REFRESH_SECONDS + 60)


def test_a_confirmed_denial_drops_a_key() -> None:
    world = run_scheduler(be_denied)
    assert world.scheduler.records["disk"].state is KeyState.DENIED
    assert world.reporter.held == {}


def test_a_confirmed_denial_keeps_a_key_whose_terms_say_so() -> None:
    world = run_scheduler(be_denied, policy=KeyLifetimePolicy(is_kept_when_denied=True))
    assert world.reporter.held.keys() == {"disk"}
    assert world.reporter.codes.count(DENIED.code) >= 2


def test_a_key_that_is_kept_when_denied_is_stale_and_then_expired() -> None:
    async def test(world: World) -> None:
        await be_denied(world)
        await world.clock.advance(TOKEN_LIFE_SECONDS - REFRESH_SECONDS)
        assert world.reporter.states["disk"] is KeyState.STALE
        await world.clock.advance(HOUR)

    policy = KeyLifetimePolicy(is_kept_when_denied=True, max_stale_seconds=HOUR)
    world = run_scheduler(test, policy=policy)
    assert world.reporter.states["disk"] is KeyState.EXPIRED
    assert world.reporter.held == {}


def test_a_key_that_was_never_released_is_denied_under_every_policy() -> None:
    async def test(world: World) -> None:
        await world.clock.advance(60)

    policy = KeyLifetimePolicy(is_kept_when_denied=True)
    world = run_scheduler(test, policy=policy, failures={"disk": DENIED})
    assert world.scheduler.records["disk"].state is KeyState.DENIED


@pytest.mark.parametrize(("late", "is_held"), [(-60, True), (60, False)])
def test_a_stale_key_is_held_for_as_long_as_its_terms_say(
    late: float,
    is_held: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    async def test(world: World) -> None:
        world.jobs.whole = DOWN
        await world.clock.advance(TOKEN_LIFE_SECONDS + 2 * HOUR + late)

    world = run_scheduler(test, policy=KeyLifetimePolicy(max_stale_seconds=2 * HOUR))
    assert bool(world.reporter.held) is is_held


def test_longer_terms_hold_for_a_key_that_is_stale_already() -> None:
    async def test(world: World) -> None:
        world.jobs.whole = DOWN
        await world.clock.advance(TOKEN_LIFE_SECONDS + HOUR)
        keys = key_requests(make_config("disk"))
        longer = KeyLifetimePolicy(max_stale_seconds=DAY)
        world.scheduler.configure(keys, {"disk": longer})
        await world.clock.advance(2 * HOUR)

    world = run_scheduler(test, policy=KeyLifetimePolicy(max_stale_seconds=2 * HOUR))
    assert world.reporter.states["disk"] is KeyState.STALE
    assert world.reporter.held.keys() == {"disk"}


def test_a_shorter_time_holds_from_the_reload_on() -> None:
    async def test(world: World) -> None:
        keys = key_requests(make_config("disk"))
        world.scheduler.configure(
            keys, {"disk": KeyLifetimePolicy(refresh_seconds=1200)}
        )
        await world.clock.advance(1300)

    assert run_scheduler(test).times == [0, 1200]


def test_a_key_is_refreshed_in_its_own_time() -> None:
    async def test(world: World) -> None:
        await world.clock.advance(HOUR + 1)

    world = run_scheduler(test, policy=KeyLifetimePolicy(refresh_seconds=1200))
    assert world.times == [0, 1200, 2400, 3600]


def test_a_key_of_its_own_time_is_stale_when_that_is_overdue() -> None:
    async def test(world: World) -> None:
        world.jobs.whole = DOWN
        await world.clock.advance(1499)
        assert world.reporter.states["disk"] is KeyState.CURRENT
        await world.clock.advance(2)
        assert world.reporter.states["disk"] is KeyState.STALE

    run_scheduler(test, policy=KeyLifetimePolicy(refresh_seconds=1200))


def test_the_configuration_says_all_of_it() -> None:
    config = parse_config(
        '[keys.a]\nvault = "https://v.vault.azure.net"\non_denial = "keep"\n'
        "max_stale_seconds = 60\nrefresh_seconds = 600\n"
        "overlap_seconds = 30\n"
        '[keys.b]\nvault = "https://v.vault.azure.net"\n'
    )
    assert lifetime_policies(config) == {
        "a": KeyLifetimePolicy(
            60,
            is_kept_when_denied=True,
            refresh_seconds=600,
            overlap_seconds=30,
            check_seconds=3600,
        ),
        "b": KeyLifetimePolicy(check_seconds=3600),
    }


def test_a_machine_keeps_its_place_in_the_fleet() -> None:
    ids = [f"{number:032x}" for number in range(1000)]
    places = [due_times.machine_spread(one) for one in ids]
    assert places == [due_times.machine_spread(one) for one in ids]
    assert all(-1 <= place < 1 for place in places)
    tenths = {int((place + 1) * 5) for place in places}
    assert tenths == set(range(10))


def after(spread: float, jitter: float) -> float:
    return due_times.refresh_after_seconds(125, spread=spread, jitter=jitter)


def test_machines_with_the_same_machine_id_do_not_refresh_at_the_same_time() -> None:
    assert after(0.5, 1.0) != after(0.5, 0.0)
    assert after(1.0, 1.0) == pytest.approx(110)
    assert after(-1.0, 0.0) == pytest.approx(90)
