"""The agent with a NOTIFY_SOCKET on which no process listens."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest
from support.deadlines import DEADLINE_SECONDS
from support.e2e import Agent, config_for, run_command

from skragent.emulator.thread import EmulatorThread

pytestmark = pytest.mark.swtpm

WARNING = "systemd cannot be notified of the agent's state"


@pytest.mark.parametrize(
    "address",
    ["/nonexistent/notify", "/dev/null", "@skragent-no-listener", "vsock:2:1234"],
)
def test_an_agent_that_cannot_notify_systemd_serves_keys_and_warns_once(
    emulator: EmulatorThread, directory: Path, address: str
) -> None:
    environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "300000"}
    with Agent(
        directory, config_for(emulator, directory, "demo"), environment
    ) as agent:
        agent.until(lambda: agent.holds("demo"))
        assert run_command(agent, "reload").returncode == 0
        agent.until(lambda: "reloaded" in agent.log.read_text())
        assert agent.holds("demo")
        agent.process.send_signal(signal.SIGTERM)
        assert agent.process.wait(DEADLINE_SECONDS) == 0
    assert agent.log.read_text().count(WARNING) == 1
    assert "Traceback" not in agent.log.read_text()


def test_an_agent_serves_keys_after_its_notify_socket_is_removed(
    emulator: EmulatorThread, directory: Path
) -> None:
    path = directory / "notify"
    environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "300000"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(path))
        systemd.settimeout(DEADLINE_SECONDS)
        config = config_for(emulator, directory, "demo")
        with Agent(directory, config, environment) as agent:
            while b"READY=1" not in systemd.recv(4096):
                pass
            systemd.close()
            path.unlink()
            agent.until(lambda: WARNING in agent.log.read_text())
            agent.until(lambda: agent.holds("demo"))
            assert run_command(agent, "refresh", "demo").returncode == 0
            assert agent.process.poll() is None
            agent.process.send_signal(signal.SIGTERM)
            assert agent.process.wait(DEADLINE_SECONDS) == 0
    assert agent.log.read_text().count(WARNING) == 1
