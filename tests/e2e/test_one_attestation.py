"""One attestation serves all due releases: an agent, its releasers and the emulator."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.e2e import Agent, config_for, create_key

if TYPE_CHECKING:
    from skragent.emulator.thread import EmulatorThread

pytestmark = pytest.mark.swtpm


def asked(emulator: EmulatorThread, before: int) -> tuple[int, int]:
    """Count attestations and releases since a request."""
    since = emulator.instance.requests[before:]
    attestations = [r for r in since if "/attest/AzureGuest" in r.target]
    releases = [r for r in since if "/release" in r.target and r.status == 200]
    return len(attestations), len(releases)


@contextlib.contextmanager
def agent_that_waits(emulator: EmulatorThread, directory: Path) -> Iterator[Agent]:
    """Run an agent with an attestation token whose vault fails until the block ends."""
    fault = "vault.status=503,retry_after=2,path=/release"
    emulator.call(emulator.instance.faults.apply(fault))
    with Agent(directory, config_for(emulator, directory, "demo")) as agent:
        agent.until(lambda: "code=transport.server" in agent.log.read_text())
        yield agent
        emulator.call(emulator.instance.faults.reset())
        agent.until(lambda: agent.holds("demo"))


def test_a_key_is_released_with_the_cached_token_after_the_vault_recovers(
    emulator: EmulatorThread, directory: Path
) -> None:
    before = len(emulator.instance.requests)
    with agent_that_waits(emulator, directory):
        pass
    assert asked(emulator, before) == (1, 1)


def test_a_vtpm_reset_between_two_jobs_requires_another_attestation(
    emulator: EmulatorThread, directory: Path
) -> None:
    before = len(emulator.instance.requests)
    with agent_that_waits(emulator, directory) as agent:
        emulator.call(emulator.instance.vm.reboot())
    assert "code=token.wrapping_key" in agent.log.read_text()
    assert asked(emulator, before) == (2, 1)


def test_more_keys_than_the_release_rate_limit_share_an_attestation(
    emulator: EmulatorThread, directory: Path
) -> None:
    names = [f"many-{number}" for number in range(11)]
    for name in names:
        if name not in emulator.instance.vault.store.names:
            create_key(emulator, f"{name}:EC")
    before = len(emulator.instance.requests)
    with Agent(directory, config_for(emulator, directory, *names)) as agent:
        agent.until(lambda: all(agent.holds(name) for name in names))
    assert asked(emulator, before) == (1, 11)
