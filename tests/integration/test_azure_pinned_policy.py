"""The policy of packaging/azure at the emulated vaults: it releases to one VM only.

The attack: any local user of a VM can get the identity's token from IMDS, and can use
it from another VM. The clients here are plain HTTP and Azure's SDK.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import requests
from azure.identity import ManagedIdentityCredential
from azure.keyvault.keys import KeyClient, KeyReleasePolicy
from support.arm import Deployment, Json
from support.azure import jws_parts, open_sealed
from support.azure_vm import VM_ID, SoftwareVm, b64u, unb64u
from support.bicep import AZURE
from support.deadlines import DEADLINE_SECONDS

from skragent.emulator.azure import Azure
from skragent.emulator.service import Response
from skragent.emulator.thread import LoopThread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skragent.emulator.keyvault.vault import Vault

TEMPLATE = json.loads((AZURE / "main.json").read_text())
OTHER_VM = "0D15EA5E-0000-4000-8000-000000000002"
DENIED = "does not meet key release policy requirements"


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azure]:
    directory = tmp_path_factory.mktemp("azure")
    with LoopThread(
        lambda: Azure.start(directory, SoftwareVm()), lambda azure: azure.close()
    ) as thread:
        thread.instance.imds.is_limited = False  # each request needs a token of IMDS
        yield thread.instance


@pytest.fixture(params=["skragent-demo", "skragent-hsm"])
def vault(request: pytest.FixtureRequest, azure: Azure) -> Vault:
    return azure.vaults[request.param]


def policy_of(azure: Azure, **parameters: Json) -> bytes:
    """Return the policy that the template deploys for this provider and `VM_ID`."""
    given = {
        "adminPublicKey": "ssh-ed25519 AAAA",
        "attestationAuthority": azure.maa.issuer,
    }
    deployment = Deployment(TEMPLATE, **given | parameters)
    key = deployment.properties("Microsoft.KeyVault/vaults/keys")
    return unb64u(key["release_policy"]["data"])


def identity_token(azure: Azure, vault: Vault) -> str:
    """Get the identity's token from IMDS, as any local user of the VM can."""
    answer = requests.get(
        f"{azure.imds_url}/metadata/identity/oauth2/token",
        params={"api-version": "2018-02-01", "resource": vault.resource},
        headers={"Metadata": "true"},
        timeout=DEADLINE_SECONDS,
    )
    token: str = answer.json()["access_token"]
    return token


def attestation_token(azure: Azure, vm_id: str) -> str:
    """Attest a VM of this id; chip, measurement, PCRs and claims are the same."""
    vm = SoftwareVm()
    vm.runtime["vm-configuration"]["vmUniqueId"] = vm_id
    info = json.dumps(vm.attestation_info()).encode()
    answer = requests.post(
        f"{azure.maa.issuer}/attest/AzureGuest?api-version=2020-10-01",
        json={"AttestationInfo": b64u(info)},
        verify=str(azure.ca_path),
        timeout=DEADLINE_SECONDS,
    )
    return open_sealed(Response(answer.status_code, answer.content))


def ask(azure: Azure, vault: Vault, method: str, path: str, body: Json) -> Response:
    """Send a request with the identity's token to a vault, by plain HTTP."""
    answer = requests.request(
        method,
        f"{vault.url}{path}?api-version=7.4",
        json=body,
        headers={"Authorization": f"Bearer {identity_token(azure, vault)}"},
        verify=str(azure.ca_path),
        timeout=DEADLINE_SECONDS,
    )
    return Response(answer.status_code, answer.content)


def release(azure: Azure, vault: Vault, name: str, vm_id: str) -> Response:
    body = {"target": attestation_token(azure, vm_id)}
    return ask(azure, vault, "POST", f"/keys/{name}/release", body)


def create(azure: Azure, vault: Vault, name: str, policy: bytes) -> None:
    body = {
        "kty": "RSA-HSM",
        "attributes": {"exportable": True},
        "release_policy": {"data": b64u(policy)},
    }
    answer = ask(azure, vault, "POST", f"/keys/{name}/create", body)
    assert answer.status == 200, answer.body


def with_vm(policy: bytes, vm_id: str) -> bytes:
    assert policy.count(VM_ID.encode()) == 1
    return policy.replace(VM_ID.encode(), vm_id.encode())


def assert_denied(answer: Response) -> None:
    error = json.loads(answer.body)["error"]
    assert (answer.status, error["code"]) == (403, "Forbidden")
    assert DENIED in error["message"]


def test_the_token_names_the_vm_in_upper_case(azure: Azure) -> None:
    _, claims = jws_parts(attestation_token(azure, VM_ID))
    assert claims["x-ms-azurevm-vmid"] == VM_ID == VM_ID.upper()


def test_two_vms_differ_in_their_id_only(azure: Azure) -> None:
    (_, one), (_, other) = (
        jws_parts(attestation_token(azure, vm_id)) for vm_id in (VM_ID, OTHER_VM)
    )
    assert other["x-ms-azurevm-vmid"] == OTHER_VM
    measured = "x-ms-sevsnpvm-launchmeasurement"
    for claims in (one, other):
        tee = claims["x-ms-isolation-tee"]
        assert tee["x-ms-compliance-status"] == "azure-compliant-cvm"
        assert tee[measured] == one["x-ms-isolation-tee"][measured]


def test_a_pinned_key_is_released_to_its_vm(azure: Azure, vault: Vault) -> None:
    create(azure, vault, "own", policy_of(azure))
    assert release(azure, vault, "own", VM_ID).status == 200


def test_a_stolen_identity_token_opens_no_pinned_key_on_another_compliant_vm(
    azure: Azure, vault: Vault
) -> None:
    create(azure, vault, "stolen", policy_of(azure))
    assert_denied(release(azure, vault, "stolen", OTHER_VM))


def test_without_the_pin_the_stolen_token_opens_the_key_on_any_compliant_vm(
    azure: Azure, vault: Vault
) -> None:
    create(azure, vault, "scale-set", policy_of(azure, pinToVm=False))
    for vm_id in (VM_ID, OTHER_VM):
        assert release(azure, vault, "scale-set", vm_id).status == 200


def test_a_list_of_ids_admits_these_vms_only(azure: Azure, vault: Vault) -> None:
    policy = json.loads(policy_of(azure))
    *rest, pin = policy["anyOf"][0]["allOf"]
    pins = [pin, pin | {"equals": OTHER_VM}]
    policy["anyOf"][0]["allOf"] = [*rest, {"anyOf": pins}]
    create(azure, vault, "several", json.dumps(policy).encode())
    for vm_id in (VM_ID, OTHER_VM):
        assert release(azure, vault, "several", vm_id).status == 200
    third = "0D15EA5E-0000-4000-8000-000000000003"
    assert_denied(release(azure, vault, "several", third))


def test_a_vm_that_was_created_again_gets_the_key_after_a_change_by_rest(
    azure: Azure, vault: Vault
) -> None:
    create(azure, vault, "again", policy_of(azure))
    assert_denied(release(azure, vault, "again", OTHER_VM))
    changed = with_vm(policy_of(azure), OTHER_VM)
    body = {"release_policy": {"data": b64u(changed)}}
    answer = ask(azure, vault, "PATCH", "/keys/again", body)
    assert answer.status == 200, answer.body
    assert release(azure, vault, "again", OTHER_VM).status == 200


def test_a_vm_that_was_created_again_gets_the_key_after_a_change_by_the_sdk(
    azure: Azure, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Name no version, as `az keyvault key set-attributes --policy` must not."""
    create(azure, vault, "sdk", policy_of(azure))
    changed = KeyReleasePolicy(with_vm(policy_of(azure), OTHER_VM))
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", azure.imds_url)
    ca = str(azure.ca_path)
    with (
        ManagedIdentityCredential(retry_total=0) as credential,
        KeyClient(vault.url, credential, connection_verify=ca, retry_total=0) as client,
    ):
        key = client.update_key_properties("sdk", release_policy=changed)
    assert key.properties.release_policy
    assert json.loads(key.properties.release_policy.encoded_policy) == json.loads(
        changed.encoded_policy
    )
    assert release(azure, vault, "sdk", OTHER_VM).status == 200


def test_the_old_vm_gets_no_key_after_the_change(azure: Azure, vault: Vault) -> None:
    create(azure, vault, "before", policy_of(azure))
    changed = with_vm(policy_of(azure), OTHER_VM)
    body = {"release_policy": {"data": b64u(changed)}}
    assert ask(azure, vault, "PATCH", "/keys/before", body).status == 200
    assert_denied(release(azure, vault, "before", VM_ID))
