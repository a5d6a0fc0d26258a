"""Version checks: a releaser reads the latest versions from the emulator's vault."""

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
    """Give the identity only the permission `release` during a test."""
    access = emulator.instance.vault.access
    identity = emulator.instance.azure.vm_identity
    access.grant(identity.object_id, "release")
    yield
    access.grant(identity.object_id)


def latest(emulator: EmulatorThread, name: str) -> str:
    stored = emulator.instance.vault.store.find(name)
    assert stored is not None
    return stored.latest.version


def test_a_version_check_uses_neither_tpm_nor_verifier(
    emulator: EmulatorThread, directory: Path
) -> None:
    before = len(emulator.instance.requests)
    create_key(emulator, "demo:RSA")  # a new version
    result = check(emulator, directory, "demo")
    assert result.versions == {"demo": latest(emulator, "demo")}
    services = {entry.service for entry in emulator.instance.requests[before:]}
    assert "maa" not in services


@pytest.mark.usefixtures("only_release")
def test_a_version_check_without_permission_returns_no_version(
    emulator: EmulatorThread, directory: Path
) -> None:
    result = check(emulator, directory, "demo")
    assert result.versions == {"demo": ""}
    assert result.failed == ()


def test_a_version_check_without_permission_at_a_managed_hsm_returns_no_version(
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


def test_a_missing_key_does_not_affect_the_version_check_of_other_keys(
    emulator: EmulatorThread, directory: Path
) -> None:
    result = check(emulator, directory, "demo", "none")
    assert result.versions == {"demo": latest(emulator, "demo")}
    (failed,) = result.failed
    assert (failed.alias, failed.failure.code) == ("none", "release.not_found")
