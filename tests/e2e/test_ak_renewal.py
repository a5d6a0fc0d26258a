"""An AK certificate near its end: agents that run and agents that are killed.

tests/bench/renewal_kills.py kills at random times; `make kills` kills a thousand times.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.ak_renewal import ANEW, CHANGES, Guest
from support.deadlines import DEADLINE_SECONDS
from support.e2e import SKRAGENT, Agent, config_for, run_command

from skragent.emulator.tpm.messages import CC_NV_DEFINE_SPACE, TpmRefusal

if TYPE_CHECKING:
    from skragent.emulator.thread import EmulatorThread

pytestmark = pytest.mark.swtpm

KILLS = Path(__file__).resolve().parents[1] / "bench" / "renewal_kills.py"
NV_RATE = 0x920


@pytest.fixture
def guest(emulator: EmulatorThread, directory: Path) -> Iterator[Guest]:
    guest = Guest(emulator, directory)
    yield guest
    guest.close()


def attestation(agent: Agent) -> dict[str, Any]:
    """Return the attestation in `skragent status --json`."""
    socket = agent.socket.with_name("admin.sock")
    command = [*SKRAGENT, "status", "--json", "--socket", str(socket)]
    done = subprocess.run(
        command, capture_output=True, check=True, timeout=DEADLINE_SECONDS
    )
    found: dict[str, Any] = json.loads(done.stdout)["attestation"]
    return found


def test_the_certificate_is_renewed_and_status_and_journal_report_it(
    emulator: EmulatorThread, directory: Path
) -> None:
    for fault in ("vm.ak_cert_guests", "vm.ak_cert_days=30"):
        emulator.call(emulator.instance.faults.apply(fault))
    now = emulator.instance.azure.clock.now()
    with Agent(directory, config_for(emulator, directory, "demo")) as agent:
        agent.until(lambda: agent.holds("demo"))
        agent.until(lambda: "the AK certificate is renewed" in agent.log.read_text())
        expires_at = attestation(agent)["ak_certificate_expires_at"]
        assert expires_at > now + 300 * 86400
        assert agent.holds("demo")


def test_the_agent_does_not_renew_a_certificate_that_the_paravisor_renews(
    emulator: EmulatorThread, directory: Path
) -> None:
    emulator.call(emulator.instance.faults.apply("vm.ak_cert_days=30"))
    before = len(emulator.instance.requests)
    now = emulator.instance.azure.clock.now()
    with Agent(directory, config_for(emulator, directory, "demo")) as agent:
        agent.until(lambda: agent.holds("demo"))
        expires_at = attestation(agent)["ak_certificate_expires_at"]
    assert expires_at == pytest.approx(now + 30 * 86400, abs=600)
    targets = [entry.target for entry in emulator.instance.requests[before:]]
    assert not [target for target in targets if "/tvm/" in target]


def test_a_stopping_agent_waits_for_a_write_that_has_begun(
    emulator: EmulatorThread, directory: Path, guest: Guest
) -> None:
    guest.prepare(ANEW)
    has_begun = threading.Event()

    def stop(code: int) -> None:
        if code in CHANGES and not has_begun.is_set():
            has_begun.set()
            agent.process.send_signal(signal.SIGTERM)

    with Agent(
        directory, config_for(emulator, directory, "demo"), state=directory
    ) as agent:
        emulator.instance.vm.vtpm.guards["test"] = stop
        assert agent.process.wait(DEADLINE_SECONDS) == 0
    assert has_begun.is_set()
    assert guest.holds() == "new"
    assert not guest.copy.exists()


def test_the_next_agent_restores_a_lost_certificate_and_logs_it(
    emulator: EmulatorThread, directory: Path, guest: Guest
) -> None:
    guest.prepare(ANEW)
    config = config_for(emulator, directory, "demo")
    guest.break_(f"vm.rc={NV_RATE:#x},command={CC_NV_DEFINE_SPACE:#x}")
    with Agent(directory, config, state=directory) as agent:
        agent.until(lambda: "not be renewed" in agent.log.read_text())
    assert guest.holds() == "none"
    guest.lift()
    with Agent(directory, config, state=directory) as agent:
        agent.until(lambda: agent.holds("demo"))
        agent.until(lambda: "restored from its copy" in agent.log.read_text())
    assert guest.holds() == "new"


def test_held_keys_are_served_if_the_certificate_cannot_be_restored(
    emulator: EmulatorThread, directory: Path, guest: Guest
) -> None:
    guest.prepare(ANEW)

    def refuse(code: int) -> None:
        if code == CC_NV_DEFINE_SPACE:
            raise TpmRefusal(NV_RATE)

    emulator.instance.vm.vtpm.guards["test"] = refuse
    with Agent(
        directory, config_for(emulator, directory, "demo"), state=directory
    ) as agent:
        agent.until(lambda: "not be renewed" in agent.log.read_text())
        before = agent.log.read_text().count("evidence.tpm.busy")
        run_command(agent, "refresh", "demo")
        agent.until(lambda: agent.log.read_text().count("evidence.tpm.busy") > before)
        assert agent.holds("demo")
        guest.lift()
        run_command(agent, "refresh", "demo")
        agent.until(lambda: "restored from its copy" in agent.log.read_text())
        agent.until(lambda: guest.holds() == "new")


def test_no_kill_at_a_random_time_loses_the_certificate() -> None:
    """SKRAGENT_RENEWAL_KILLS is the number of kills; a kill takes about two seconds."""
    kills = os.environ.get("SKRAGENT_RENEWAL_KILLS", "24")
    done = subprocess.run(
        [sys.executable, KILLS, "--kills", kills, "--seed", "7"],
        capture_output=True,
        text=True,
        timeout=240 + 10 * int(kills),
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "renewal_kills: ok"
