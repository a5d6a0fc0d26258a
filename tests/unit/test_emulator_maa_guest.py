"""Guest attestation by the emulated provider: valid evidence, and each broken field."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest
from support.azure import (
    attest_guest,
    jws_parts,
    make_azure,
    open_sealed,
    verify_jws,
)
from support.azure_vm import (
    NOW,
    VM_ID,
    SoftwareVm,
    b64,
    b64u,
    rsa_key,
    unb64u,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from skragent.emulator.azure import Azure


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Azure:
    return make_azure(tmp_path_factory.mktemp("azure"))


@pytest.fixture
def info() -> dict[str, Any]:
    return SoftwareVm().attestation_info()


def test_valid_evidence_gives_a_token_that_the_wrapping_key_opens(
    azure: Azure, info: dict[str, Any]
) -> None:
    answer = attest_guest(azure, info)
    assert answer.status == 200
    header, claims = jws_parts(open_sealed(answer))
    assert list(header) == ["alg", "jku", "kid", "typ"]
    assert claims["iss"] == azure.maa.issuer
    assert (claims["exp"] - claims["iat"], claims["nbf"]) == (28800, NOW.timestamp())
    assert claims["x-ms-azurevm-vmid"] == VM_ID
    assert claims["secureboot"] is True
    tee = claims["x-ms-isolation-tee"]
    assert tee["x-ms-compliance-status"] == "azure-compliant-cvm"
    assert tee["x-ms-runtime"] == SoftwareVm().runtime
    assert tee["x-ms-sevsnpvm-microcode-svn"] == 219
    runtime = claims["x-ms-runtime"]
    assert runtime["client-payload"] == {"nonce": b64(b"nonce1")}
    (jwk,) = runtime["keys"]
    modulus = rsa_key("wrapping").public_key().public_numbers().n
    assert int.from_bytes(unb64u(jwk["n"]), "big") == modulus
    assert (jwk["kid"], jwk["key_ops"]) == ("TpmEphemeralEncryptionKey", ["encrypt"])


def test_token_is_signed_by_a_key_of_certs(azure: Azure, info: dict[str, Any]) -> None:
    token = open_sealed(attest_guest(azure, info))
    header, _ = jws_parts(token)
    keys = {key["kid"]: key for key in azure.maa.keys.jwks["keys"]}
    assert set(keys[header["kid"]]) == {"alg", "kid", "kty", "use", "x5c"}
    verify_jws(token, base64.b64decode(keys[header["kid"]]["x5c"][0]))


def test_rotated_key_signs_and_the_old_ones_go_when_not_kept(tmp_path: Path) -> None:
    azure = make_azure(tmp_path)
    before = azure.maa.keys.jwks["keys"]
    azure.maa.keys.rotate(keep_old=False)
    (key,) = azure.maa.keys.jwks["keys"]
    assert key not in before
    token = open_sealed(attest_guest(azure, SoftwareVm().attestation_info()))
    assert jws_parts(token)[0]["kid"] == key["kid"]


def test_claims_have_no_character_that_standard_base64_lacks(azure: Azure) -> None:
    info = SoftwareVm().attestation_info()
    info["OSDistro"] = b64("Ünix ???>>>~~~ ?>~".encode())
    token = open_sealed(attest_guest(azure, info))
    assert not set(token.split(".")[1]) & set("-_")
    assert jws_parts(token)[1]["x-ms-azurevm-osdistro"] == "Ünix ???>>>~~~ ?>~"


def _swap_values(
    info: dict[str, Any], names: str, encode: Callable[[bytes], str]
) -> None:
    evidence = info["IsolationInfo"]["Evidence"]
    for name in names.split():
        data = base64.b64decode(evidence[name])
        evidence[name] = encode(data)


@pytest.mark.parametrize(
    "respell",
    [
        lambda i: i.update(OSVersionMajor="12", OSVersionMinor="0"),
        lambda i: i.update(ClientPayload=None),
        lambda i: i.update(ClientPayload={"user-claims": {"nonce": "plain"}}),
        lambda i: i.update(TcgLogs=""),
        lambda i: i.update(TcgLogs=b64(b"dummy-event-log")),
        lambda i: _swap_values(i, "Proof RunTimeData", b64u),
        lambda i: i["TpmInfo"].update(PCRs=i["TpmInfo"]["PCRs"][::-1]),
    ],
    ids=[
        "versions-as-strings",
        "payload-null",
        "payload-raw",
        "no-log",
        "short-log",
        "url-base64",
        "pcrs-in-any-order",
    ],
)
def test_other_spellings_of_clients_are_accepted(
    azure: Azure, info: dict[str, Any], respell: Callable[[dict[str, Any]], None]
) -> None:
    respell(info)
    assert attest_guest(azure, info).status == 200


def test_names_of_the_aks_public_area_after_it_are_ignored(
    azure: Azure, info: dict[str, Any]
) -> None:
    area = base64.b64decode(info["TpmInfo"]["AikPub"])
    info["TpmInfo"]["AikPub"] = b64(area + bytes(72))
    assert attest_guest(azure, info).status == 200


def test_client_payload_is_absent_when_none_was_sent(
    azure: Azure, info: dict[str, Any]
) -> None:
    info["ClientPayload"] = None
    _, claims = jws_parts(open_sealed(attest_guest(azure, info)))
    assert set(claims["x-ms-runtime"]) == {"keys"}
