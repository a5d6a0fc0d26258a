"""Faults of one machine: killed processes, hanging processes, disks, clocks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from vm.agent import CONFIG, STATUS, Agent
from vm.keys import pem_of

from skragent.emulator.service import Request, Response


def serves(agent: Agent) -> bool:
    """Return whether the agent serves the latest version of the key."""
    return agent.get("db", wait=60).body == pem_of(agent.azure.instance.latest("db"))


def wait_for_another_process(agent: Agent, pid: str) -> None:
    agent.guest.until(
        'test "$(systemctl show --value -p ActiveState skragent)" = active'
        f' && test "$(systemctl show --value -p MainPID skragent)" != {pid}',
        timeout=120,
    )


def test_the_next_agent_serves_keys_after_sigkill_during_an_outage_of_azure(
    agent: Agent,
) -> None:
    pid = agent.property("MainPID")
    with agent.azure.outage():
        agent.guest.check(f"kill -9 {pid}")
        # systemd holds the sockets, so that no connection is refused in the meantime.
        assert serves(agent)
        assert agent.property("MainPID") != pid
        assert "is held again" in agent.journal("-u skragent -n 50")


def test_a_restart_during_an_outage_of_azure_keeps_the_keys(agent: Agent) -> None:
    with agent.azure.outage():
        agent.guest.check("systemctl restart skragent", timeout=120)
        assert serves(agent)


@pytest.fixture
def configuration(agent: Agent) -> Iterator[Agent]:
    yield agent
    agent.configure(CONFIG)


def test_a_failed_start_with_a_bad_configuration_keeps_the_keys(
    configuration: Agent,
) -> None:
    agent = configuration
    kept = agent.property("NFileDescriptorStore")
    with agent.azure.outage():
        agent.configure(CONFIG + "surprise = 1\n")
        assert agent.guest.run("systemctl restart skragent", timeout=120).code
        assert agent.property("ExecMainStatus") == "75"
        assert "systemd keeps the held keys" in agent.journal("-u skragent -n 20")
        # systemd starts the agent again, and each start fails.
        agent.guest.until(
            'test "$(systemctl show --value -p NRestarts skragent)" -ge 2', timeout=120
        )
        assert agent.property("NFileDescriptorStore") == kept
        agent.configure(CONFIG)
        assert serves(agent)


def test_a_sigterm_of_another_process_keeps_the_keys(agent: Agent) -> None:
    pid = agent.property("MainPID")
    with agent.azure.outage():
        agent.guest.check(f"kill -TERM {pid}")
        wait_for_another_process(agent, pid)
        assert serves(agent)


def test_systemctl_stop_drops_the_keys(agent: Agent) -> None:
    with agent.azure.outage():
        agent.guest.check("systemctl stop skragent", timeout=120)
        assert agent.property("NFileDescriptorStore") == "0"
        # A request starts the agent again, and the agent holds no key.
        assert agent.get("db", wait=5).status == "503"
    agent.wait_until_current()
    assert serves(agent)


def test_a_killed_releaser_is_started_again_and_keys_are_served(
    agent: Agent,
) -> None:
    held = asyncio.Event()
    agents = agent.property("MainPID")
    before = agent.releases()

    async def hold(_: Request, answer: Response) -> Response:
        await held.wait()
        return answer

    vault = agent.azure.instance.vault
    vault.before_response = hold
    agent.guest.check("skragent refresh")
    agent.guest.until("pgrep -f [s]kragent.releaser", timeout=90)
    killed = agent.guest.check("pgrep -f [s]kragent.releaser").split()
    assert serves(agent)
    label = agent.guest.check(f"cat /proc/{killed[0]}/attr/apparmor/current")
    assert label.strip() == "skragent (enforce)"
    agent.guest.check(f"kill -9 {' '.join(killed)}")
    vault.before_response = None
    agent.azure.call(_set(held))
    agent.guest.until("journalctl -u skragent -o cat -n 30 | grep -q SIGKILL")
    agent.guest.wait_for(lambda: agent.releases() > before, "a release", timeout=120)
    assert agent.property("MainPID") == agents
    assert serves(agent)


async def _set(event: asyncio.Event) -> None:
    event.set()


def test_the_watchdog_ends_an_agent_that_hangs(agent: Agent) -> None:
    pid = agent.property("MainPID")
    with agent.azure.outage():
        agent.guest.check(f"kill -STOP {pid}")
        wait_for_another_process(agent, pid)
        assert "watchdog" in agent.journal("-u skragent -n 50").lower()
        assert serves(agent)


@pytest.fixture
def clock(agent: Agent) -> Iterator[Agent]:
    yield agent
    seconds = agent.azure.instance.azure.clock.now()
    agent.guest.check(f"date -s @{seconds:.0f}")


def test_a_clock_that_is_set_back_keeps_the_keys(clock: Agent) -> None:
    pid = clock.property("MainPID")
    clock.guest.check("date -s '3 hours ago'")
    assert serves(clock)
    # By the guest's clock the token is from the future, so the releaser rejects it.
    clock.guest.check("skragent refresh")
    clock.guest.until(f"{STATUS} | grep -q token.expired", timeout=90)
    assert serves(clock)
    assert clock.property("MainPID") == pid
    clock.guest.check(f"date -s @{clock.azure.instance.azure.clock.now():.0f}")
    clock.refresh()
    assert serves(clock)


@pytest.fixture
def full_disk(agent: Agent) -> Iterator[Agent]:
    """A disk that a user has filled; the blocks reserved for root are free."""
    agent.guest.run("runuser -u alice -- sh -c 'head -c 4G /dev/zero >~/filler'")
    assert not has_space(agent, "alice")
    yield agent
    agent.guest.check("rm -f /home/alice/filler /filler")


def has_space(agent: Agent, user: str) -> bool:
    """Return whether a user can write another block."""
    script = "f=$(mktemp /tmp/XXXXXX) && head -c 8192 /dev/zero >$f"
    can = agent.guest.run(f"runuser -u {user} -- sh -c '{script}'").code == 0
    agent.guest.check(f"find /tmp -user {user} -type f -delete")
    return can


def test_a_full_disk_keeps_the_keys(full_disk: Agent) -> None:
    agent, azure = full_disk, full_disk.azure
    agent.guest.check("systemctl restart skragent", timeout=120)
    assert serves(agent)
    agent.guest.run("head -c 4G /dev/zero >/filler")
    assert not has_space(agent, "root")
    azure.call(azure.instance.rotate("db"))
    agent.guest.check("skragent refresh db")
    version = azure.instance.latest("db").version
    agent.guest.until(f"{STATUS} | grep -q {version}", timeout=90)
    assert serves(agent)
    assert not has_space(agent, "alice")
