"""What the emulated provider refuses: guest evidence with one thing broken."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from support.azure import (
    attest_guest,
    make_azure,
)
from support.azure_vm import (
    Json,
    SoftwareVm,
    b64,
    b64u,
    ca_certificate,
    event_log,
    vcek_pem,
)

from skragent.emulator.maa.appraisal.platform import Trust

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from skragent.emulator.azure import Azure
    from skragent.emulator.service import Response


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Azure:
    return make_azure(tmp_path_factory.mktemp("azure"))


@pytest.fixture
def info() -> dict[str, Any]:
    return SoftwareVm().attestation_info()


def _code(answer: Response) -> tuple[int, str]:
    error = json.loads(answer.body)["error"]
    assert answer.headers["x-ms-error-code"] == error["code"]
    return answer.status, error["code"]


def _message(answer: Response) -> str:
    return str(json.loads(answer.body)["error"]["message"])


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
    azure.maa.trust = Trust(arks=frozenset([b"another ARK"]))
    answer = attest_guest(azure, SoftwareVm().attestation_info())
    assert _code(answer) == (400, "InvalidParameter")
    assert "trusted ARK" in _message(answer)


@pytest.mark.parametrize(("ca", "status"), [("vtpm-ca", 200), ("other-ca", 400)])
def test_ak_certificate_must_be_of_a_trusted_ca_where_cas_are_given(
    tmp_path: Path, ca: str, status: int
) -> None:
    azure = make_azure(tmp_path)
    roots = frozenset([ca_certificate("vTPM CA", ca)])
    azure.maa.trust = Trust(azure.maa.trust.arks, roots)
    answer = attest_guest(azure, SoftwareVm().attestation_info())
    assert answer.status == status
    if status == 400:
        assert "virtual TPM CA" in _message(answer)


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


@pytest.mark.parametrize("position", range(12, 40))
def test_an_ak_certificate_with_a_wrong_byte_is_refused_and_nothing_breaks(
    azure: Azure, info: dict[str, Any], position: int
) -> None:
    """Its version, its serial number and its algorithms are in these."""
    der = bytearray(base64.b64decode(info["TpmInfo"]["AikCert"]))
    der[position] ^= 0x20
    info["TpmInfo"]["AikCert"] = b64(bytes(der))
    assert attest_guest(azure, info).status in (200, 400)
