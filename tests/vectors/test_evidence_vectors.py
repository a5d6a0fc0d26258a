"""Captures of real machines: all verify, and no changed bit goes undetected."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.evidence import flip
from support.evidence_amd import NOW, parse_pem_chain

from skragent.errors import AgentError, BindingError, EndorsementsError
from skragent.evidence.amd_certificate import load_certificates
from skragent.evidence.endorsements import (
    AMD_ROOTS,
    Endorsements,
    chip_generation,
    order_chain,
    parse_roots,
    parse_thim_response,
    verify_endorsements,
)
from skragent.evidence.hcl import (
    HclReport,
    parse_hcl_report,
    verify_runtime_data_binding,
)
from skragent.evidence.quote import SignedAttest, verify_quote
from skragent.evidence.snp import SIGNED_BYTES, Cpuid, SnpReport, parse_snp_report
from skragent.evidence.snp_signature import verify_report_signature
from skragent.evidence.tcb import Generation

pytestmark = pytest.mark.vectors

AZURE = ("azure-snp-milan-v2", "azure-snp-milan-v3")


def read_hcl(vectors: Path, name: str) -> HclReport:
    return parse_hcl_report((vectors / name / "hcl-report.bin").read_bytes())


def read_chain(vectors: Path, name: str) -> Endorsements:
    if name == "azure-snp-milan-v2":
        return parse_pem_chain((vectors / name / "vcek-chain.pem").read_bytes())
    files = (
        vectors / name / "vcek.der",
        vectors / "amd-roots" / "milan-ask.pem",
        vectors / "amd-roots" / "milan-ark.pem",
    )
    return order_chain(c for f in files for c in load_certificates(f.read_bytes()))


def read_aci(vectors: Path) -> tuple[SnpReport, Endorsements]:
    folder = vectors / "aci-snp-milan"
    report = parse_snp_report((folder / "snp-report.bin").read_bytes())
    return report, parse_thim_response(
        (folder / "thim-certification.json").read_bytes()
    )


@pytest.mark.parametrize("name", AZURE)
def test_a_captured_report_verifies_to_amds_root(vectors: Path, name: str) -> None:
    hcl, chain = read_hcl(vectors, name), read_chain(vectors, name)
    verify_runtime_data_binding(hcl)
    verify_endorsements(chain, hcl.snp_report, now=NOW)
    verify_report_signature(hcl.snp_report, chain.signer)


def test_the_captured_container_report_verifies_with_thims_response(
    vectors: Path,
) -> None:
    report, chain = read_aci(vectors)
    verify_endorsements(chain, report, now=NOW)
    verify_report_signature(report, chain.signer)


def test_thims_tcbm_is_the_reported_tcb(vectors: Path) -> None:
    report, chain = read_aci(vectors)
    assert bytes.fromhex(chain.tcbm) == report.reported_tcb[::-1]


def test_the_verifier_gets_the_unchanged_text_of_thim(vectors: Path) -> None:
    path = vectors / "aci-snp-milan" / "thim-certification.json"
    answer = json.loads(path.read_text())
    text = answer["vcekCert"] + answer["certificateChain"]
    assert read_aci(vectors)[1].pem.decode() == text


def test_the_certificate_identifies_the_chip_of_a_version_2_report(
    vectors: Path,
) -> None:
    report = read_hcl(vectors, AZURE[0]).snp_report
    assert report.version == 2
    assert report.generation is None
    signer = read_chain(vectors, AZURE[0]).signer
    assert chip_generation(report, signer) == Generation.MILAN


def test_a_version_3_report_has_its_cpuid(vectors: Path) -> None:
    report = read_hcl(vectors, AZURE[1]).snp_report
    assert report.version == 3
    assert report.cpuid == Cpuid(0x19, 1, 1)
    assert report.decode_reported_tcb(Generation.MILAN).microcode == 0xDB


@pytest.mark.parametrize("product", ["milan", "genoa", "turin"])
def test_amds_roots_are_pinned(vectors: Path, product: str) -> None:
    pem = (vectors / "amd-roots" / f"{product}-ark.pem").read_bytes()
    assert set(parse_roots(pem).roots) < AMD_ROOTS


def test_another_products_chain_does_not_verify(vectors: Path) -> None:
    chain = read_chain(vectors, AZURE[0])
    ask = (vectors / "amd-roots" / "genoa-ask.pem").read_bytes()
    ark = (vectors / "amd-roots" / "genoa-ark.pem").read_bytes()
    forged = Endorsements(
        b"", chain.signer, load_certificates(ask)[0], load_certificates(ark)[0]
    )
    with pytest.raises(EndorsementsError) as caught:
        verify_endorsements(forged, read_hcl(vectors, AZURE[0]).snp_report, now=NOW)
    assert caught.value.code == "endorsements.chain"


def test_a_certificate_of_another_machine_is_rejected(vectors: Path) -> None:
    report = read_hcl(vectors, AZURE[0]).snp_report
    with pytest.raises(EndorsementsError) as caught:
        verify_endorsements(read_chain(vectors, AZURE[1]), report, now=NOW)
    assert caught.value.code == "endorsements.chip"


def read_quote(vectors: Path) -> tuple[SignedAttest, list[bytes]]:
    path = vectors / AZURE[1] / "tpm-quote.json"
    quote = json.loads(path.read_text())
    signed = SignedAttest(
        bytes.fromhex(quote["message"]), bytes.fromhex(quote["signature"])
    )
    return signed, [bytes.fromhex(pcr) for pcr in quote["pcrs"]]


def verify_captured_quote(vectors: Path, signed: SignedAttest) -> None:
    verify_quote(
        signed,
        read_hcl(vectors, AZURE[1]).runtime_data.ak_public,
        read_quote(vectors)[1],
        qualifying_data=b"challenge",
        indices=range(24),
    )


def test_the_captured_quote_verifies_with_the_reports_ak(vectors: Path) -> None:
    verify_captured_quote(vectors, read_quote(vectors)[0])


def test_no_bit_of_the_captured_quote_can_be_changed(vectors: Path) -> None:
    signed, _ = read_quote(vectors)
    for bit in range(len(signed.message) * 8):
        with pytest.raises(BindingError):
            verify_captured_quote(
                vectors, SignedAttest(flip(signed.message, bit), signed.signature)
            )


def test_no_bit_of_the_captured_report_can_be_changed(vectors: Path) -> None:
    """Try every eighth bit of the signed part, and every bit of the signature field."""
    name = AZURE[1]
    data = read_hcl(vectors, name).snp_report.raw
    signer = read_chain(vectors, name).signer
    signed, rest = SIGNED_BYTES * 8, len(data) * 8
    for bit in [*range(0, signed, 8), *range(signed, rest, 5)]:
        with pytest.raises(AgentError):
            verify_report_signature(parse_snp_report(flip(data, bit)), signer)


def verify_with_vcek(der: bytes, chain: Endorsements, report: SnpReport) -> None:
    (vcek,) = load_certificates(der)
    forged = order_chain((vcek, chain.intermediate, chain.root))
    verify_endorsements(forged, report, now=NOW)


def test_no_bit_of_the_captured_vcek_can_be_changed(vectors: Path) -> None:
    name = AZURE[1]
    report = read_hcl(vectors, name).snp_report
    chain = read_chain(vectors, name)
    der = (vectors / name / "vcek.der").read_bytes()
    for bit in range(3, len(der) * 8, 11):
        with pytest.raises(EndorsementsError):
            verify_with_vcek(flip(der, bit), chain, report)


def test_no_bit_of_the_captured_runtime_data_can_be_changed(vectors: Path) -> None:
    data = (vectors / AZURE[1] / "hcl-report.bin").read_bytes()
    start, end = 0x4D4, 0x4D4 + 1110
    for bit in range(start * 8, end * 8, 7):
        with pytest.raises(AgentError):
            verify_runtime_data_binding(parse_hcl_report(flip(data, bit)))
