"""The report's signature: a valid one, and one fault each."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from support.evidence import build_report, build_snp, sign_report
from support.evidence_amd import mint_certificate, mint_chain

from skragent.errors import BindingError
from skragent.evidence.snp import SnpReport, parse_snp_report
from skragent.evidence.snp_signature import verify_report_signature

VLEK_KEY_INFO = 1 << 2


@pytest.mark.parametrize("version", [2, 3, 5])
def test_the_signature_of_every_version_verifies(version: int) -> None:
    verify_report_signature(build_snp(version=version), mint_chain().signer)


def test_a_vleks_signature_verifies() -> None:
    chain = mint_chain(hw_id=None, csp_id="a cloud")
    verify_report_signature(build_snp(key_info=VLEK_KEY_INFO), chain.signer)


def signature_refusal(report: SnpReport) -> str:
    with pytest.raises(BindingError) as caught:
        verify_report_signature(report, mint_chain().signer)
    return caught.value.code


def test_a_masked_chip_key_has_no_valid_signature() -> None:
    assert signature_refusal(build_snp(key_info=2)) == "evidence.signature"


@pytest.mark.parametrize("signing_key", [2, 7])
def test_an_unsigned_report_is_refused(signing_key: int) -> None:
    report = build_snp(key_info=signing_key << 2)
    assert signature_refusal(report) == "evidence.signature"


def test_another_signature_algorithm_is_refused() -> None:
    assert signature_refusal(build_snp(algorithm=2)) == "evidence.signature"


def test_a_signature_with_something_behind_it_is_refused() -> None:
    report = parse_snp_report(build_report()[:-1] + b"\x01")
    assert signature_refusal(report) == "evidence.signature"


def test_a_changed_report_is_refused() -> None:
    data = bytearray(build_report())
    data[0x90] ^= 1
    assert signature_refusal(parse_snp_report(bytes(data))) == "evidence.signature"


def test_a_signature_of_zeros_is_refused() -> None:
    report = parse_snp_report(build_report()[:0x2A0] + bytes(512))
    assert signature_refusal(report) == "evidence.signature"


def test_a_signer_with_an_rsa_key_is_refused() -> None:
    chain = mint_chain()
    with pytest.raises(BindingError) as caught:
        verify_report_signature(build_snp(), chain.root)
    assert caught.value.code == "evidence.signature"


def test_a_signer_on_another_curve_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    signer = mint_certificate("SEV-VCEK", "SEV-Test", key=key)
    with pytest.raises(BindingError) as caught:
        verify_report_signature(build_snp(), signer)
    assert caught.value.code == "evidence.signature"


def test_a_report_signed_again_after_a_change_verifies() -> None:
    """So the refusals above are the signature's doing."""
    data = bytearray(build_report())
    data[0x90] ^= 1
    report = parse_snp_report(sign_report(data))
    verify_report_signature(report, mint_chain().signer)
