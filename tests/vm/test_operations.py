"""Operations on a running machine: reload, rotation, refresh, and the evidence."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest
from vm.agent import CONFIG, Agent
from vm.keys import pem_of

_WATCHER = """\
import sys
from skragent.client import SkragentClient
for key in SkragentClient().watch("db"):
    print(key.version, file=open("/tmp/seen", "a"), flush=True)
"""


def test_the_unprivileged_agent_sends_the_event_log(agent: Agent) -> None:
    path = "/sys/kernel/security/tpm0/binary_bios_measurements"
    assert agent.guest.run(f"runuser -u skragent -- cat {path}").code
    with agent.evidence() as sent:
        agent.refresh()
    logs = [base64.b64decode(info["TcgLogs"]) for info in sent]
    # The agent sends only events of PCR 0 to 7; MAA replays them against the quote.
    measured = int(agent.guest.check(f"cat {path} | wc -c"))
    assert [len(log) for log in logs if measured / 5 < len(log) <= measured]


@pytest.fixture
def configuration(agent: Agent) -> Iterator[Agent]:
    yield agent
    agent.configure(CONFIG)
    agent.guest.check("systemctl reload skragent")


def test_reload_applies_changed_access_rules_without_a_release(
    configuration: Agent,
) -> None:
    agent = configuration
    before = agent.releases()
    agent.configure(CONFIG.replace('user = "alice"', 'user = "mallory"'))
    agent.guest.check("systemctl reload skragent")
    assert agent.get("db", user="mallory").status == "200"
    assert agent.get("db").status == "404"
    assert agent.releases() == before


def test_reload_rejects_a_bad_configuration_and_keeps_the_old_configuration(
    configuration: Agent,
) -> None:
    agent = configuration
    agent.configure(CONFIG + "surprise = 1\n")
    assert agent.guest.run("systemctl reload skragent").code
    assert "surprise" in agent.journal("-u skragent -n 20")
    assert agent.get("db").status == "200"


def test_a_watcher_sees_the_rotated_key(agent: Agent) -> None:
    azure, guest = agent.azure, agent.guest
    guest.write("/run/watch.py", _WATCHER)
    guest.check("rm -f /tmp/seen")
    watcher = guest.start("runuser -u alice -- timeout 120 python3 -I /run/watch.py")
    guest.until("test -s /tmp/seen")
    azure.call(azure.instance.rotate("db"))
    latest = azure.instance.latest("db")
    guest.check("skragent refresh db")
    guest.until(f"grep -q {latest.version} /tmp/seen")
    assert agent.get("db").body == pem_of(latest)
    guest.check("pkill -u alice -f watch.py")
    guest.wait(watcher)
