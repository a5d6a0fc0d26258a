"""A key whose policy pins one VM, with agents in two VMs with their own vTPMs.

The VMs share the chip, the measurement and, through IMDS, the identity. This models an
attack: a local user takes the identity's token to another VM. Only the VM IDs differ.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from azure.identity import ManagedIdentityCredential
from azure.keyvault.keys import KeyClient, KeyReleasePolicy
from support.bicep import AZURE
from support.e2e import Agent, config_for, create_key, run_command
from support.vtpm import vm_directory

from skragent.emulator.confidential_vm import ConfidentialVm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skragent.emulator.thread import EmulatorThread

pytestmark = pytest.mark.swtpm

OTHER_VM = "0D15EA5E-0000-4000-8000-000000000002"
HERE = "https://sharedweu.weu.attest.azure.net"
NO_VM = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
def other_vm(emulator: EmulatorThread) -> Iterator[ConfidentialVm]:
    """Start another compliant VM with a copy of the chip."""
    with vm_directory() as home:
        vm = emulator.call(ConfidentialVm.start(home, vm_id=OTHER_VM))
        try:
            yield vm
        finally:
            emulator.call(vm.close())


def policy_for(emulator: EmulatorThread, vm_id: str) -> bytes:
    """Return the shipped policy with the values of docs/azure.md's manual steps."""
    text = (AZURE / "release-policy.json").read_text()
    text = text.replace(HERE, emulator.instance.maa.issuer)
    return text.replace(NO_VM, vm_id).encode()


def set_policy(emulator: EmulatorThread, name: str, policy: bytes) -> None:
    """Set a key's policy with Azure's SDK, as the az CLI does."""
    azure = emulator.instance.azure
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", azure.imds_url)
        credential = stack.enter_context(ManagedIdentityCredential(retry_total=0))
        client = stack.enter_context(
            KeyClient(
                emulator.instance.vault.url,
                credential,
                connection_verify=str(azure.ca_path),
                retry_total=0,
            )
        )
        client.update_key_properties(name, release_policy=KeyReleasePolicy(policy))


def config_in(
    emulator: EmulatorThread, directory: Path, vm: ConfidentialVm, alias: str
) -> str:
    """Return a configuration for an agent in a VM of the same emulated Azure."""
    log = str(vm.tcg_log_path.resolve())
    return config_for(emulator, directory, alias, tcti=vm.tcti, tcg_log=log)


def test_a_pinned_key_is_served_in_its_vm(
    emulator: EmulatorThread, directory: Path
) -> None:
    vm = emulator.instance.vm
    create_key(emulator, "pinned:RSA")
    set_policy(emulator, "pinned", policy_for(emulator, vm.vm_id))
    with Agent(directory, config_in(emulator, directory, vm, "pinned")) as agent:
        agent.until(lambda: agent.holds("pinned"))


def test_another_compliant_vm_with_the_same_identity_does_not_get_the_pinned_key(
    emulator: EmulatorThread, directory: Path, other_vm: ConfidentialVm
) -> None:
    create_key(emulator, "theirs:RSA")
    set_policy(emulator, "theirs", policy_for(emulator, emulator.instance.vm.vm_id))
    config = config_in(emulator, directory, other_vm, "theirs")
    with Agent(directory, config) as agent:
        assert agent.first_failure() == "release.denied.policy"
        assert not agent.holds("theirs")


def test_another_compliant_vm_gets_a_key_whose_policy_pins_no_vm(
    emulator: EmulatorThread, directory: Path, other_vm: ConfidentialVm
) -> None:
    create_key(emulator, "shared:RSA")
    text = (AZURE / "release-policy-scale-set.json").read_text()
    policy = text.replace(HERE, emulator.instance.maa.issuer).encode()
    set_policy(emulator, "shared", policy)
    config = config_in(emulator, directory, other_vm, "shared")
    with Agent(directory, config) as agent:
        agent.until(lambda: agent.holds("shared"))


def test_a_vm_that_was_created_again_gets_the_key_after_a_change_of_the_policy(
    emulator: EmulatorThread, directory: Path, other_vm: ConfidentialVm
) -> None:
    create_key(emulator, "again:RSA")
    set_policy(emulator, "again", policy_for(emulator, emulator.instance.vm.vm_id))
    config = config_in(emulator, directory, other_vm, "again")
    with Agent(directory, config) as agent:
        assert agent.first_failure() == "release.denied.policy"
        set_policy(emulator, "again", policy_for(emulator, other_vm.vm_id))
        done = run_command(agent, "refresh")
        assert done.returncode == 0, done.stderr
        agent.until(lambda: agent.holds("again"))
