"""The attestation providers of Azure's regions, as the emulator knows them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.azure import ask, jws_parts, make_azure, open_sealed
from support.azure_vm import SoftwareVm, b64u

from skragent.attestation.regions import shared_endpoint
from skragent.emulator.azure import Azure
from skragent.emulator.maa.regions import ATTESTATION_HOSTS

ROOT = Path(__file__).resolve().parents[2]
TABLE = json.loads((ROOT / "packaging/azure/attestation-regions.json").read_text())
US_GOVERNMENT = ("usgovvirginia", "usgovarizona", "usgovtexas")
OTHER = "sharedweu.weu.attest.azure.net"
GUEST = "/attest/AzureGuest?api-version=2020-10-01"


@pytest.fixture
def azure(tmp_path: Path) -> Azure:
    return make_azure(tmp_path, real_names=True)


def _token(azure: Azure, host: str) -> str:
    info = b64u(json.dumps(SoftwareVm().attestation_info()).encode())
    body = {"AttestationInfo": info}
    return open_sealed(ask(azure.maa, "POST", GUEST, body, {"host": host}))


@pytest.mark.parametrize("region", [*TABLE, *US_GOVERNMENT])
def test_provider_that_the_agent_uses_for_a_region_is_known(region: str) -> None:
    assert shared_endpoint(region).removeprefix("https://") in ATTESTATION_HOSTS


def test_token_is_of_the_provider_that_was_asked(azure: Azure) -> None:
    header, claims = jws_parts(_token(azure, OTHER))
    assert claims["iss"] == f"https://{OTHER}"
    assert header["jku"] == f"https://{OTHER}/certs"


@pytest.mark.parametrize("host", ["", "weu.attest.azure.net", "127.0.0.1:8443"])
def test_unknown_host_is_the_provider_of_the_vms_region(
    azure: Azure, host: str
) -> None:
    assert jws_parts(_token(azure, host))[1]["iss"] == azure.maa.issuer


@pytest.mark.parametrize(("host", "status"), [(OTHER, 200), ("", 403)])
def test_policy_of_another_region_is_satisfied_by_that_regions_token(
    azure: Azure, host: str, status: int
) -> None:
    vault = azure.vaults["skragent-demo"]
    policy = azure.cvm_policy()
    policy["anyOf"][0]["authority"] = f"https://{OTHER}"
    access, _ = azure.entra.issue(azure.vm_identity, vault.resource, azure.clock.now())
    bearer = {"authorization": f"Bearer {access}"}
    body = {
        "kty": "EC-HSM",
        "attributes": {"exportable": True},
        "release_policy": {"data": b64u(json.dumps(policy).encode())},
    }
    api = "?api-version=7.4"
    assert ask(vault, "POST", f"/keys/k/create{api}", body, bearer).status == 200
    target = {"target": _token(azure, host)}
    answer = ask(vault, "POST", f"/keys/k/release{api}", target, bearer)
    assert answer.status == status
