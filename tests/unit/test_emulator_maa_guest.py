"""Guest attestation by the emulated provider: valid evidence, and each broken field."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from support.azure import (
    NOW,
    VM_ID,
    Json,
    SoftwareVm,
    attest_guest,
    b64,
    b64u,
    event_log,
    jws_parts,
    make_azure,
    open_sealed,
    rsa_key,
    unb64u,
    vcek_pem,
    verify_jws,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from skragent.emulator.azure import Azure
    from skragent.emulator.service import Answer


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Azure:
    return make_azure(tmp_path_factory.mktemp("azure"))


@pytest.fixture
def info() -> dict[str, Any]:
    return SoftwareVm().attestation_info()


def _code(answer: Answer) -> tuple[int, str]:
    error = json.loads(answer.body)["error"]
    assert answer.headers["x-ms-error-code"] == error["code"]
    return answer.status, error["code"]


def _message(answer: Answer) -> str:
    return str(json.loads(answer.body)["error"]["message"])


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


def _vm(**changes: Json) -> dict[str, Any]:
    vm = SoftwareVm()
    for name, value in changes.items():
        setattr(vm, name, value)
    return vm.attestation_info()


def _with_foreign(member: str, **changes: Json) -> dict[str, Any]:
    """Take one TpmInfo member from evidence that differs."""
    info = _vm()
    info["TpmInfo"][member] = _vm(**changes)["TpmInfo"][member]
    return info


def _with_report(offset: int, value: bytes) -> dict[str, Any]:
    return _vm(report_fields={offset: value})


def _other_pcrs() -> dict[int, bytes]:
    return event_log()[1] | {3: bytes([1]) * 32}


REFUSED: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "debuggable": (lambda: _with_report(0x008, b"\x1f\x00\x0b\0"), "debuggable"),
    "vmpl": (lambda: _with_report(0x030, b"\x02"), "VMPL 2"),
    "masked": (lambda: _with_report(0x048, b"\x02"), "MASK_CHIP_KEY"),
    "migratable": (lambda: _with_report(0x008, b"\x1f\x00\x07\0"), "migration"),
    "report-data": (lambda: _with_report(0x050, bytes(32)), "REPORT_DATA"),
    "report-data-tail": (lambda: _with_report(0x08F, b"\x01"), "REPORT_DATA"),
    "tcb": (lambda: _with_report(0x187, b"\xda"), "SPL"),
    "chip": (lambda: _with_report(0x1A0, b"\xff"), "CHIP_ID"),
    "product": (lambda: _with_report(0x189, b"\x11"), "product"),
    "version": (lambda: _with_report(0x000, b"\x06"), "version 6"),
    "signature-algorithm": (lambda: _with_report(0x034, b"\x02"), "algorithm"),
    "vcek-of-other-tcb": (
        lambda: _vm(vcek=vcek_pem({"3.1": 3, "3.2": 0, "3.3": 8, "3.8": 218})),
        "SPL",
    ),
    "vcek-of-other-chip": (lambda: _vm(vcek=vcek_pem(chip=bytes(64))), "CHIP_ID"),
    "ak-not-in-runtime-data": (lambda: _vm(ak="other"), "HCLAkPub"),
    "ak-unrestricted": (lambda: _vm(ak_attributes=0x40472), "restricted"),
    "ak-certificate": (
        lambda: _with_foreign("AikCert", ak="other"),
        "another key than AikPub",
    ),
    "quote": (lambda: _with_foreign("PcrQuote", pcrs=_other_pcrs()), "PcrQuote"),
    "quote-signature": (
        lambda: _with_foreign("PcrSignature", ak="other"),
        "signature of PcrQuote",
    ),
    "pcr-values": (
        lambda: _with_foreign("PCRs", pcrs=_other_pcrs()),
        "other PCR values",
    ),
    "selection": (lambda: _vm(selection=tuple(range(9))), "PCR0 to PCR7"),
    "pcr-set": (lambda: _with_foreign("PcrSet", pcrs={0: bytes(32)}), "PcrSet"),
    "wrapping-key": (
        lambda: _with_foreign("EncKeyPub", wrapping="other"),
        "another key than EncKeyPub",
    ),
    "certification": (
        lambda: _with_foreign("EncKeyCertifyInfoSignature", ak="other"),
        "signature of EncKeyCertifyInfo",
    ),
    "wrapping-key-attributes": (
        lambda: _vm(wrapping_attributes=0x20472),
        "attributes",
    ),
    "log-of-other-pcrs": (lambda: _vm(pcrs=event_log()[1] | {4: bytes(32)}), "PCR4"),
    "log-truncated": (lambda: _vm(tcg_log=event_log()[0][:-1]), "too short"),
    "unlogged-event": (lambda: _vm(pcrs=_other_pcrs()), "PCR3"),
    "log-garbage": (lambda: _vm(tcg_log=b"x" * 64), "TcgLogs"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_evidence_with_one_broken_field_is_refused(azure: Azure, case: str) -> None:
    build, why = REFUSED[case]
    answer = attest_guest(azure, build())
    assert _code(answer) == (400, "InvalidParameter")
    assert why in _message(answer)


def test_wrapping_key_for_other_pcrs_is_refused(azure: Azure) -> None:
    info = _vm()
    other = _vm(pcrs=_other_pcrs())["TpmInfo"]
    for name in ("EncKeyPub", "EncKeyCertifyInfo", "EncKeyCertifyInfoSignature"):
        info["TpmInfo"][name] = other[name]
    answer = attest_guest(azure, info)
    assert _code(answer) == (400, "InvalidParameter")
    assert "not bound to the quoted PCRs" in _message(answer)


def test_report_signature_with_one_flipped_bit_is_refused(azure: Azure) -> None:
    vm = SoftwareVm()
    info = vm.attestation_info()
    report = bytearray(vm.report(vm.runtime_data))
    report[0x2A0] ^= 1
    proof = {"SnpReport": b64u(bytes(report)), "VcekCertChain": b64(vm.chain)}
    info["IsolationInfo"]["Evidence"]["Proof"] = b64(json.dumps(proof).encode())
    answer = attest_guest(azure, info)
    assert _code(answer) == (400, "InvalidParameter")
    assert "signature" in _message(answer)


def test_chain_to_an_untrusted_ark_is_refused(tmp_path: Path) -> None:
    azure = make_azure(tmp_path)
    azure.maa.trust = type(azure.maa.trust)(arks=frozenset([b"another ARK"]))
    answer = attest_guest(azure, SoftwareVm().attestation_info())
    assert _code(answer) == (400, "InvalidParameter")
    assert "trusted ARK" in _message(answer)


def test_endorsements_that_are_over_are_refused(tmp_path: Path) -> None:
    azure = make_azure(tmp_path)
    azure.clock.skew_seconds = 40000 * 86400.0
    answer = attest_guest(azure, SoftwareVm().attestation_info())
    assert _code(answer) == (400, "InvalidParameter")
    assert "not valid now" in _message(answer)


def test_guest_without_secure_boot_is_denied_by_its_log(azure: Azure) -> None:
    log, pcrs = event_log(secure_boot=b"\0")
    answer = attest_guest(azure, _vm(tcg_log=log, pcrs=pcrs))
    assert _code(answer) == (400, "PolicyEvaluationError")
    assert '[type=="secureboot", value==false] => deny();' in _message(answer)


def test_guest_without_secure_boot_is_denied_by_its_runtime_data(azure: Azure) -> None:
    vm = SoftwareVm(tcg_log=b"")
    vm.runtime["vm-configuration"]["secure-boot"] = False
    answer = attest_guest(azure, vm.attestation_info())
    assert _code(answer) == (400, "PolicyEvaluationError")


def test_value_that_is_not_base64_is_an_invalid_operation(
    azure: Azure, info: dict[str, Any]
) -> None:
    info["TpmInfo"]["PcrQuote"] = "not base64!"
    assert _code(attest_guest(azure, info)) == (400, "InvalidOperation")


@pytest.mark.parametrize("member", SoftwareVm().tpm_info())
def test_missing_member_is_refused(
    azure: Azure, info: dict[str, Any], member: str
) -> None:
    del info["TpmInfo"][member]
    answer = attest_guest(azure, info)
    assert _code(answer) == (400, "InvalidParameter")
    assert member in _message(answer)
