"""A look for new versions, by a real releaser at the emulator's vault."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.e2e import config_for, create_key
from support.releaser import Releaser

from skragent.job import Result

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skragent.emulator.thread import EmulatorThread

pytestmark = pytest.mark.swtpm


def check(emulator: EmulatorThread, directory: Path, *aliases: str) -> Result:
    return Releaser(config_for(emulator, directory, *aliases), "check").run()


@pytest.fixture
def only_release(emulator: EmulatorThread) -> Iterator[None]:
    """The identity has the permission to release, and no other one."""
    access, who = emulator.instance.vault.access, emulator.instance.azure.vm_identity
    access.grant(who.object_id, "release")
    yield
    access.grant(who.object_id)


def latest(emulator: EmulatorThread, name: str) -> str:
    stored = emulator.instance.vault.store.find(name)
    assert stored is not None
    return stored.latest.version


def test_the_latest_versions_are_found_without_tpm_and_verifier(
    emulator: EmulatorThread, directory: Path
) -> None:
    before = len(emulator.instance.requests)
    create_key(emulator, "demo:RSA")  # a new version
    result = check(emulator, directory, "demo")
    assert result.versions == {"demo": latest(emulator, "demo")}
    services = {entry.service for entry in emulator.instance.requests[before:]}
    assert "maa" not in services


@pytest.mark.usefixtures("only_release")
def test_without_the_permission_to_look_it_says_so(
    emulator: EmulatorThread, directory: Path
) -> None:
    result = check(emulator, directory, "demo")
    assert result.versions == {"demo": ""}
    assert result.failed == ()


def test_a_managed_hsm_that_forbids_the_look_is_understood(
    emulator: EmulatorThread, directory: Path
) -> None:
    vault, hsm = emulator.instance.vaults.values()
    create_key(emulator, "hsm-look:RSA", hsm)
    config = config_for(emulator, directory, "hsm-look").replace(vault.url, hsm.url)
    emulator.call(emulator.instance.faults.apply("hsm.role.revoked=get"))
    try:
        result = Releaser(config, "check").run()
    finally:
        emulator.call(emulator.instance.faults.reset())
    assert result.versions == {"hsm-look": ""}
    assert result.failed == ()


def test_a_key_that_is_not_there_is_its_own_trouble(
    emulator: EmulatorThread, directory: Path
) -> None:
    result = check(emulator, directory, "demo", "none")
    assert result.versions == {"demo": latest(emulator, "demo")}
    (failed,) = result.failed
    assert (failed.alias, failed.failure.code) == ("none", "release.not_found")
