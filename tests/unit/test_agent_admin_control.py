"""How the agent describes a key to an administrator."""

from __future__ import annotations

import pytest
from support.agent import MID_JITTER, failure, make_config
from support.agent_scheduler import World, nothing, run_scheduler

from skragent.agent.admin_control import Control
from skragent.agent.due_times import RETRY_AFTER_JITTER
from skragent.denials import REPEATED_AFTER_SECONDS

RENAMED = '[keys.db]\nvault = "https://v.vault.azure.net"\nname = "db-2026"\n'


def make_control(world: World) -> Control:
    return Control(
        world.scheduler,
        make_config("disk", extra=RENAMED),
        world.clock,
        reload=lambda _listener: None,
        unit_rules="none",
    )


@pytest.mark.parametrize(("alias", "name"), [("db", "db-2026"), ("disk", "disk")])
def test_a_key_is_described_by_its_name_in_the_vault(alias: str, name: str) -> None:
    world = run_scheduler(nothing, "db", "disk")
    assert make_control(world).describe_key(alias)["vault_name"] == name


def test_the_due_time_of_a_key_includes_the_backoff_of_a_failed_job() -> None:
    async def test(world: World) -> None:
        due_at = make_control(world).describe_key("disk")["due_at"]
        seconds = 70 * (1 + RETRY_AFTER_JITTER * MID_JITTER)
        assert due_at == world.clock.wall + seconds

    run_scheduler(test, whole=failure("transport.throttled", "retry", retry_after=70))


@pytest.mark.parametrize("code", ["transport.throttled", "release.denied.firewall"])
def test_a_refresh_changes_the_due_time_that_a_failure_set(code: str) -> None:
    async def test(world: World) -> None:
        control = make_control(world)
        before = control.due_at("disk")
        assert before is not None
        assert before > world.clock.wall
        world.scheduler.refresh(["disk"])
        assert control.due_at("disk") == world.clock.wall

    failed = {"disk": failure(code, "retry", retry_after=70)}
    run_scheduler(test, failures=failed)


def test_no_attempt_is_planned_for_a_dropped_key() -> None:
    async def test(world: World) -> None:
        world.scheduler.drop("disk")
        assert make_control(world).describe_key("disk")["due_at"] is None

    run_scheduler(test)


def test_the_time_of_the_wiping_is_shown_until_the_denial_is_over() -> None:
    async def test(world: World) -> None:
        control = make_control(world)
        assert control.describe_key("disk")["wipe_at"] is None
        world.jobs.failures["disk"] = failure("release.denied.firewall", "denied")
        world.scheduler.refresh(["disk"])
        await world.clock.advance(0)
        wipe_at = control.describe_key("disk")["wipe_at"]
        assert wipe_at == world.clock.wall + REPEATED_AFTER_SECONDS
        del world.jobs.failures["disk"]
        world.scheduler.refresh(["disk"])
        await world.clock.advance(0)
        assert control.describe_key("disk")["wipe_at"] is None

    run_scheduler(test)
