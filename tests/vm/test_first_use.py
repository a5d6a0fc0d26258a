"""From the package to a key: what an administrator does first."""

from __future__ import annotations

from vm.agent import Agent
from vm.keys import pem_of


def test_an_allowed_user_gets_the_key_after_install_and_enable(agent: Agent) -> None:
    got = agent.guest.check("runuser -u alice -- skragent get db --format pem")
    assert got == pem_of(agent.azure.world.latest("db"))
    assert agent.property("UnitFileState") == "enabled"
    assert agent.property("User") == "skragent"


def test_another_user_is_refused(agent: Agent) -> None:
    refused = agent.get("db", user="mallory")
    assert refused.status == "404"
    assert "serve.denied" in refused.body
