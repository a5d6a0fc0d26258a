"""The first steps of an administrator, from the package to a key."""

from __future__ import annotations

from vm.agent import Agent
from vm.keys import pem_of


def test_an_allowed_user_gets_the_key_after_install_and_enable(agent: Agent) -> None:
    got = agent.guest.check("runuser -u alice -- skragent get db --format pem")
    assert got == pem_of(agent.azure.instance.latest("db"))
    assert agent.property("UnitFileState") == "enabled"
    assert agent.property("User") == "skragent"


def test_the_target_is_reached_when_all_keys_are_held(agent: Agent) -> None:
    agent.guest.check("systemctl start skragent-online.target", timeout=90)
    assert agent.property("ActiveState", "skragent-online.target") == "active"


def test_a_user_without_a_rule_is_refused(agent: Agent) -> None:
    refused = agent.get("db", user="mallory")
    assert refused.status == "404"
    assert "serve.denied" in refused.body


def test_agent_and_releaser_are_confined_and_systemd_rates_the_unit_safe(
    agent: Agent,
) -> None:
    guest = agent.guest
    guest.check("systemd-analyze security --threshold=15 skragent.service")
    for setting in ("MemoryMax", "TasksMax", "IPAddressDeny"):
        assert agent.property(setting) not in ("", "infinity")
    pid = agent.property("MainPID")
    label = guest.check(f"cat /proc/{pid}/attr/apparmor/current")
    assert label.strip() == "skragent (enforce)"
    python = "aa-exec -p skragent -- /usr/bin/python3 -IS -c"
    assert guest.check("stat -c '%a %U' /var/lib/skragent") == "700 skragent\n"
    refused = guest.run(f"{python} 'open(\"/etc/shadow\")'")
    assert "PermissionError" in refused.err
    guest.check(f"{python} 'open(\"/etc/machine-id\")'")
