"""How the agent describes a key to an administrator."""

from __future__ import annotations

import pytest
from support.agent import MID_JITTER, failure, make_config
from support.agent_scheduler import World, nothing, run_scheduler

from skragent.agent.control import Control
from skragent.agent.due_times import RETRY_AFTER_JITTER

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
