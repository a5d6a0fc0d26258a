"""The policy of packaging/azure at the emulated vault: which tokens get the key."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from support.arm import Deployment, Json
from support.azure import (
    API,
    ISSUER,
    World,
    attest_guest,
    jws_parts,
    open_sealed,
)
from support.azure_vm import VM_ID, SoftwareVm, b64u, unb64u
from support.bicep import AZURE

from skragent.emulator.keyvault.release_policy import parse_policy

if TYPE_CHECKING:
    from collections.abc import Callable

    from skragent.emulator.keyvault.vault import Vault

TEMPLATE = json.loads((AZURE / "main.json").read_text())
FILE = (AZURE / "release-policy.json").read_bytes()
SCALE_SET_FILE = (AZURE / "release-policy-scale-set.json").read_bytes()
OTHER_VM = "0D15EA5E-0000-4000-8000-000000000002"
NO_VM = b"00000000-0000-0000-0000-000000000000"


def key_of(**parameters: Json) -> Json:
    """Return the key's properties in the template, for our provider."""
    own = {"adminPublicKey": "ssh-ed25519 AAAA", "attestationAuthority": ISSUER}
    deployment = Deployment(TEMPLATE, **own | parameters)
    return deployment.properties("Microsoft.KeyVault/vaults/keys")


def create(world: World, vault: Vault, name: str, key: Json) -> None:
    """Create a key with the request of Azure Resource Manager."""
    body = {
        "kty": key["kty"],
        "key_size": key["keySize"],
        "key_ops": key["keyOps"],
        "attributes": key["attributes"],
        "release_policy": key["release_policy"],
    }
    answer = world.ask(vault, "POST", f"/keys/{name}/create{API}", body)
    assert answer.status == 200, answer.body


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("azure"))
    create(world, world.vault, "db", key_of())
    create(world, world.hsm, "db", key_of())
    return world


def token_with(world: World, change: Callable[[Json], object]) -> str:
    """Return a token of the provider with changed claims."""

    def changed(claims: Json) -> Json:
        change(claims)
        return claims

    world.azure.maa.mutate("claims", changed)
    try:
        sealed = attest_guest(world.azure, SoftwareVm().attestation_info())
        return open_sealed(sealed)
    finally:
        world.azure.clear_hooks()


def test_the_key_is_exportable_and_has_the_size_of_the_parameter() -> None:
    key = key_of(keySize=4096)
    assert (key["kty"], key["keySize"]) == ("RSA-HSM", 4096)
    assert key["attributes"] == {"enabled": True, "exportable": True}


@pytest.mark.parametrize(("pin", "file"), [(True, FILE), (False, SCALE_SET_FILE)])
def test_the_policy_in_the_template_is_the_file_for_this_provider_and_vm(
    *, pin: bool, file: bytes
) -> None:
    data = key_of(pinToVm=pin)["release_policy"]["data"]
    assert data == b64u(unb64u(data))  # base64url, without padding
    west_europe = b"https://sharedweu.weu.attest.azure.net"
    here = file.replace(west_europe, ISSUER.encode())
    assert unb64u(data) == here.replace(NO_VM, VM_ID.encode())


@pytest.mark.parametrize("file", [FILE, SCALE_SET_FILE], ids=["vm", "scale-set"])
def test_each_file_is_a_valid_policy(file: bytes) -> None:
    (authority,) = parse_policy(file).authorities
    assert authority[0] == "https://sharedweu.weu.attest.azure.net"


def test_the_scale_sets_policy_is_the_policy_without_the_vm() -> None:
    policy = json.loads(FILE)
    *rest, pin = policy["anyOf"][0]["allOf"]
    assert pin == {"claim": "x-ms-azurevm-vmid", "equals": NO_VM.decode()}
    policy["anyOf"][0]["allOf"] = rest
    assert json.loads(SCALE_SET_FILE) == policy


def test_the_policy_with_the_id_of_zeros_releases_no_key(world: World) -> None:
    here = FILE.replace(b"https://sharedweu.weu.attest.azure.net", ISSUER.encode())
    world.create(world.vault, "unfilled", json.loads(here))
    answer = world.release(world.vault, "/keys/unfilled/release")
    assert answer.status == 403, answer.body


def test_claims_of_an_emulated_token_satisfy_the_policy(world: World) -> None:
    _, claims = jws_parts(world.token)
    policy = parse_policy(unb64u(key_of()["release_policy"]["data"]))
    assert policy.is_satisfied_by(claims)
    # It has another authority.
    assert not parse_policy(FILE).is_satisfied_by(claims)


@pytest.mark.parametrize("store", ["vault", "hsm"])
def test_the_vault_accepts_the_policy_and_releases_the_key(
    world: World, store: str
) -> None:
    _, payload = world.released(getattr(world, store), "/keys/db/release")
    released = payload["response"]["key"]
    assert released["key"]["kty"] == ("RSA-HSM" if store == "vault" else "RSA")
    stored = parse_policy(unb64u(released["release_policy"]["data"]))
    assert stored == parse_policy(unb64u(key_of()["release_policy"]["data"]))


def _tee(name: str, value: str | None) -> Callable[[Json], object]:
    def change(claims: Json) -> None:
        tee = claims["x-ms-isolation-tee"]
        if value is None:
            del tee[name]
        else:
            tee[name] = value
            claims[name] = "azure-compliant-cvm"  # at the top level it has no effect

    return change


@pytest.mark.parametrize("store", ["vault", "hsm"])
@pytest.mark.parametrize(
    "change",
    [
        _tee("x-ms-attestation-type", "tdxvm"),
        _tee("x-ms-attestation-type", None),
        _tee("x-ms-compliance-status", "azure-signed-katacc-uvm"),
        _tee("x-ms-compliance-status", "Azure-Compliant-CVM"),
        _tee("x-ms-compliance-status", None),
        lambda claims: claims.pop("x-ms-isolation-tee"),
        lambda claims: claims.update({"x-ms-azurevm-vmid": OTHER_VM}),
        lambda claims: claims.update({"x-ms-azurevm-vmid": VM_ID.lower()}),
        lambda claims: claims.pop("x-ms-azurevm-vmid"),
    ],
    ids=[
        *("tdx", "no-type", "other-status", "case", "no-status", "no-tee"),
        *("other-vm", "vm-in-lower-case", "no-vm"),
    ],
)
def test_a_token_with_other_claims_gets_no_key(
    world: World, store: str, change: Callable[[Json], object]
) -> None:
    token = token_with(world, change)
    answer = world.release(getattr(world, store), "/keys/db/release", target=token)
    assert answer.status == 403, answer.body


def test_a_token_of_another_provider_gets_no_key(world: World) -> None:
    other = "https://other.weu.attest.azure.net"
    create(world, world.vault, "other", key_of(attestationAuthority=other))
    answer = world.release(world.vault, "/keys/other/release")
    assert answer.status == 403, answer.body
