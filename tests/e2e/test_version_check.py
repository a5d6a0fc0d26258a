"""Version checks of a real releaser at the emulated vault."""

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
    """The identity has the permission to release only."""
    access, who = emulator.instance.vault.access, emulator.instance.azure.vm_identity
    access.grant(who.object_id, "release")
    yield
    access.grant(who.object_id)


def latest(emulator: EmulatorThread, name: str) -> str:
    stored = emulator.instance.vault.store.find(name)
    assert stored is not None
    return stored.latest.version


def test_the_latest_versions_are_found_without_tpm_and_attestation(
    emulator: EmulatorThread, directory: Path
) -> None:
    before = len(emulator.instance.requests)
    create_key(emulator, "demo:RSA")  # a new version
    result = check(emulator, directory, "demo")
    assert result.versions == {"demo": latest(emulator, "demo")}
    services = {entry.service for entry in emulator.instance.requests[before:]}
    assert "maa" not in services


@pytest.mark.usefixtures("only_release")
def test_a_check_without_the_permission_reports_it(
    emulator: EmulatorThread, directory: Path
) -> None:
    result = check(emulator, directory, "demo")
    assert result.versions == {"demo": ""}
    assert result.failed == ()


def test_a_managed_hsms_refusal_of_the_check_is_recognised(
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


def test_a_missing_key_does_not_affect_the_others(
    emulator: EmulatorThread, directory: Path
) -> None:
    result = check(emulator, directory, "demo", "none")
    assert result.versions == {"demo": latest(emulator, "demo")}
    (failed,) = result.failed
    assert (failed.alias, failed.failure.code) == ("none", "release.not_found")
