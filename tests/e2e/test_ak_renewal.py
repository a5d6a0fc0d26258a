"""An AK certificate near its end, for an agent that runs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.deadlines import DEADLINE_SECONDS
from support.e2e import SKRAGENT, Agent, config_for

if TYPE_CHECKING:
    from skragent.emulator.thread import EmulatorThread

pytestmark = pytest.mark.swtpm


def attestation(agent: Agent) -> dict[str, Any]:
    """Ask for what `skragent status` knows of it."""
    socket = agent.socket.with_name("admin.sock")
    command = [*SKRAGENT, "status", "--json", "--socket", socket]
    done = subprocess.run(
        command, capture_output=True, check=True, timeout=DEADLINE_SECONDS
    )
    status: dict[str, Any] = json.loads(done.stdout)
    return status["attestation"]


def test_it_is_renewed_beside_the_keys_and_said_in_status_and_journal(
    emulator: EmulatorThread, directory: Path
) -> None:
    for fault in ("vm.ak_cert_guests", "vm.ak_cert_days=30"):
        emulator.call(emulator.world.faults.apply(fault))
    now = emulator.world.azure.clock.now()
    with Agent(directory, config_for(emulator, directory, "demo")) as agent:
        agent.until(lambda: agent.holds("demo"))
        agent.until(lambda: "the AK certificate is renewed" in agent.log.read_text())
        expires_at = attestation(agent)["ak_certificate_expires_at"]
        assert expires_at > now + 300 * 86400
        assert agent.holds("demo")


def test_it_is_left_alone_where_the_paravisor_renews_it(
    emulator: EmulatorThread, directory: Path
) -> None:
    emulator.call(emulator.world.faults.apply("vm.ak_cert_days=30"))
    before = len(emulator.world.requests)
    now = emulator.world.azure.clock.now()
    with Agent(directory, config_for(emulator, directory, "demo")) as agent:
        agent.until(lambda: agent.holds("demo"))
        expires_at = attestation(agent)["ak_certificate_expires_at"]
    assert expires_at == pytest.approx(now + 30 * 86400, abs=600)
    targets = [entry.target for entry in emulator.world.requests[before:]]
    assert not [target for target in targets if "/tvm/" in target]
