"""What the agent tells an administrator of one key."""

from __future__ import annotations

import pytest
from support.agent import make_config
from support.agent_scheduler import nothing, run_scheduler

from skragent.agent.control import Control

RENAMED = '[keys.db]\nvault = "https://v.vault.azure.net"\nname = "db-2026"\n'


@pytest.mark.parametrize(("alias", "name"), [("db", "db-2026"), ("disk", "disk")])
def test_a_key_is_described_by_its_name_in_the_vault(alias: str, name: str) -> None:
    world = run_scheduler(nothing, "db", "disk")
    control = Control(
        world.scheduler,
        make_config("disk", extra=RENAMED),
        world.clock,
        reload=lambda _listener: None,
        unit_rules="none",
    )
    assert control.describe_key(alias)["vault_name"] == name
