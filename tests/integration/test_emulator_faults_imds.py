"""Faults of the emulated metadata service."""

from __future__ import annotations

import urllib.parse
import uuid

import pytest
import requests
from cryptography.hazmat.primitives.serialization import Encoding
from support.azure import API
from support.azure_vm import VM_ID, ak_certificate
from support.deadlines import DEADLINE_SECONDS
from support.faults import AZURE_VAULT, IDENTITY, THIM, Broken

COMPUTE = "/metadata/instance/compute?api-version=2021-01-01"


@pytest.mark.parametrize("path", [THIM, IDENTITY + AZURE_VAULT])
@pytest.mark.parametrize("status", [404, 410, 429, 500])
def test_path_limits_a_fault_to_an_endpoint(
    broken: Broken, path: str, status: int
) -> None:
    broken.break_(f"imds.status={status},path={path.partition('?')[0]}")
    assert broken.ask_imds(path).status_code == status
    assert broken.ask_imds(COMPUTE).status_code == 200


@pytest.mark.parametrize(("fault", "allowed"), [("throttle", 5), ("throttle=2", 2)])
def test_request_beyond_the_limit_of_a_second_is_throttled(
    broken: Broken, fault: str, allowed: int
) -> None:
    broken.break_(f"imds.{fault},retry_after=1")
    answers = [broken.ask_imds(THIM) for _ in range(allowed + 1)]
    assert [a.status_code for a in answers] == [200] * allowed + [429]
    assert answers[-1].headers["Retry-After"] == "1"


def test_identity_that_was_removed_is_not_found(broken: Broken) -> None:
    broken.break_("imds.identity.removed")
    client_id = broken.emulator.azure.vm_identity.client_id
    for selector in ("", f"&client_id={client_id}"):
        answer = broken.ask_imds(IDENTITY + AZURE_VAULT + selector)
        assert answer.status_code == 400
        assert answer.json() == {
            "error": "invalid_request",
            "error_description": "Identity not found",
        }
    broken.reset()
    assert broken.ask_imds(IDENTITY + AZURE_VAULT).status_code == 200


@pytest.mark.parametrize(
    ("fault", "token"), [("access_token", "not.a.token"), ("access_token=x", "x")]
)
def test_vaults_reject_the_access_token(broken: Broken, fault: str, token: str) -> None:
    broken.break_(f"imds.{fault}")
    vault = broken.vault("vault")
    given = broken.ask_imds(IDENTITY + vault.resource).json()["access_token"]
    assert given == token
    answer = broken.session.get(
        f"{vault.url}/keys{API}",
        headers={"Authorization": f"Bearer {given}"},
        timeout=DEADLINE_SECONDS,
    )
    assert answer.status_code == 401


@pytest.mark.parametrize(
    ("fault", "member", "value"),
    [
        ("compute.location=mars", "location", "mars"),
        ("compute.location", "location", None),
        ("compute.vmId=", "vmId", ""),
    ],
)
def test_member_of_the_instance_metadata_is_wrong(
    broken: Broken, fault: str, member: str, value: str | None
) -> None:
    broken.break_(f"imds.{fault}")
    assert broken.ask_imds(COMPUTE).json().get(member) == value


@pytest.mark.parametrize(
    ("fault", "member", "value"),
    [
        ("thim.tcbm=0000000000000000", "tcbm", "0000000000000000"),
        ("thim.vcekCert=none", "vcekCert", "none"),
        ("thim.vcekCert=", "vcekCert", ""),
        ("thim.certificateChain", "certificateChain", None),
    ],
)
def test_member_of_the_endorsements_is_wrong(
    broken: Broken, fault: str, member: str, value: str | None
) -> None:
    whole = broken.ask_imds(THIM).json()
    broken.break_(f"imds.{fault}")
    answer = broken.ask_imds(THIM).json()
    assert answer.get(member) == value
    assert {n: v for n, v in answer.items() if n != member} == {
        n: v for n, v in whole.items() if n != member
    }


def renew(broken: Broken, version: str) -> requests.Response:
    """Renew the AK's certificate as the reference client does."""
    pem = ak_certificate("old").public_bytes(Encoding.PEM)
    query = f"api-version={version}&vmId={VM_ID}&requestId={uuid.uuid4()}"
    return broken.session.post(
        f"{broken.emulator.azure.imds_url}/metadata/THIM/tvm/certificate/renew?{query}",
        data=urllib.parse.quote(pem, safe=""),
        headers={"Metadata": "true"},
        timeout=DEADLINE_SECONDS,
    )


@pytest.mark.parametrize(
    ("fault", "member", "value"),
    [
        ("renewal.AkCertPem=none", "AkCertPem", "none"),
        ("renewal.AkCertPem", "AkCertPem", None),
    ],
)
def test_member_of_a_renewals_answer_is_wrong(
    broken: Broken, fault: str, member: str, value: str | None
) -> None:
    assert renew(broken, "2023-07-01").json()[member].startswith("-----BEGIN")
    broken.break_(f"imds.{fault}")
    answer = renew(broken, "2023-07-01").json()
    assert answer.get(member) == value
    assert uuid.UUID(answer["CertQueryId"])


def test_renewals_need_an_order(broken: Broken) -> None:
    broken.break_("imds.renewal_later")
    assert renew(broken, "2023-07-01").status_code == 400
    assert uuid.UUID(renew(broken, "2021-12-01").text)
