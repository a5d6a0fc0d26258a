"""Endorsements: valid chains, and chains with one fault each."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from support.evidence import build_snp
from support.evidence_amd import (
    CHIP_ID,
    MILAN_TCB,
    NOW,
    SHORT_CHIP_ID,
    TURIN_TCB,
    amd_extensions,
    chip_key,
    mint_certificate,
    mint_chain,
    parse_pem_chain,
    roots_of,
    thim_answer,
)

from skragent.errors import (
    EndorsementsError,
    UnsupportedEvidenceError,
)
from skragent.evidence.amd_certificate import (
    MAX_CERTIFICATES_BYTES,
    load_certificates,
    read_extensions,
)
from skragent.evidence.endorsements import (
    Endorsements,
    chip_generation,
    find_signer,
    parse_roots,
    parse_thim_response,
    verify_endorsements,
)
from skragent.evidence.snp import SnpReport
from skragent.evidence.tcb import Generation

VLEK_KEY_INFO = 1 << 2
TURIN_CPUID = (0x1A, 2, 1)


def refusal(
    chain: Endorsements, report: SnpReport, roots: frozenset[bytes] | None = None
) -> str:
    """The code that verifying is refused with."""
    trusted = roots_of(chain) if roots is None else roots
    with pytest.raises(EndorsementsError) as caught:
        verify_endorsements(chain, report, now=NOW, roots=trusted)
    return caught.value.code


def chain_with(**certificates: x509.Certificate) -> Endorsements:
    return replace(mint_chain(), **certificates)  # type: ignore[arg-type]


def vcek(
    signed_by: str = "", extensions: tuple[tuple[str, bytes], ...] = ()
) -> x509.Certificate:
    """A VCEK that fits, but for what is given."""
    fitting = amd_extensions(MILAN_TCB, product="Milan-B0", hw_id=CHIP_ID)
    return mint_certificate(
        "SEV-VCEK",
        "SEV-Test",
        key=chip_key(),
        extensions=extensions or fitting,
        signed_by=signed_by,
    )


@pytest.mark.parametrize("version", [2, 3, 5])
def test_a_milan_chain_verifies_for_every_version(version: int) -> None:
    chain = mint_chain()
    report = build_snp(version=version)
    verify_endorsements(chain, report, now=NOW, roots=roots_of(chain))


def test_a_turin_chain_verifies_with_its_short_chip_id() -> None:
    chain = mint_chain(tcb=TURIN_TCB, product="Turin", hw_id=SHORT_CHIP_ID[:8])
    report = build_snp(
        version=5, cpuid=TURIN_CPUID, tcb=TURIN_TCB, chip_id=SHORT_CHIP_ID
    )
    verify_endorsements(chain, report, now=NOW, roots=roots_of(chain))


def test_a_vlek_chain_verifies_for_any_chip() -> None:
    chain = mint_chain(hw_id=None, csp_id="a cloud")
    report = build_snp(key_info=VLEK_KEY_INFO, chip_id=bytes(64))
    verify_endorsements(chain, report, now=NOW, roots=roots_of(chain))


def test_a_hidden_chip_id_is_not_compared() -> None:
    chain = mint_chain()
    report = build_snp(chip_id=bytes(64))
    verify_endorsements(chain, report, now=NOW, roots=roots_of(chain))


def test_a_root_that_is_not_amds_is_refused_by_default() -> None:
    with pytest.raises(EndorsementsError) as caught:
        verify_endorsements(mint_chain(), build_snp(), now=NOW)
    assert caught.value.code == "endorsements.root"


def test_no_trusted_root_refuses_everything() -> None:
    assert refusal(mint_chain(), build_snp(), frozenset()) == "endorsements.root"


def test_an_intermediate_of_another_root_is_refused() -> None:
    forged = mint_certificate("SEV-Test", "ARK-Test", signed_by="somebody")
    assert refusal(chain_with(intermediate=forged), build_snp()) == "endorsements.chain"


def test_a_vcek_of_another_intermediate_is_refused() -> None:
    chain = chain_with(signer=vcek(signed_by="somebody"))
    assert refusal(chain, build_snp()) == "endorsements.chain"


def test_a_vcek_signed_with_its_own_kind_of_key_is_refused() -> None:
    """A chip's key must not make certificates: AMD's are all RSASSA-PSS."""
    chain = mint_chain()
    assert refusal(replace(chain, intermediate=chain.signer), build_snp()) == (
        "endorsements.chain"
    )


@pytest.mark.parametrize("days", [-2, 366])
def test_a_certificate_outside_its_lifetime_is_refused(days: int) -> None:
    chain = mint_chain()
    now = NOW + timedelta(days=days)
    with pytest.raises(EndorsementsError) as caught:
        verify_endorsements(chain, build_snp(), now=now, roots=roots_of(chain))
    assert caught.value.code == "endorsements.lifetime"


@pytest.mark.parametrize("part", ["bootloader", "tee", "snp", "microcode"])
def test_a_certificate_for_another_tcb_is_refused(part: str) -> None:
    lagging = replace(MILAN_TCB, **{part: getattr(MILAN_TCB, part) + 1})
    assert refusal(mint_chain(), build_snp(tcb=lagging)) == "endorsements.tcb"


def test_a_turin_certificate_for_another_fmc_is_refused() -> None:
    chain = mint_chain(tcb=TURIN_TCB, product="Turin", hw_id=SHORT_CHIP_ID[:8])
    report = build_snp(
        cpuid=TURIN_CPUID, tcb=replace(TURIN_TCB, fmc=2), chip_id=SHORT_CHIP_ID
    )
    assert refusal(chain, report) == "endorsements.tcb"


def test_another_chips_certificate_is_refused() -> None:
    report = build_snp(chip_id=CHIP_ID[::-1])
    assert refusal(mint_chain(), report) == "endorsements.chip"


def test_a_short_hw_id_does_not_match_a_long_chip_id() -> None:
    chain = mint_chain(hw_id=CHIP_ID[:8])
    assert refusal(chain, build_snp()) == "endorsements.chip"


def test_a_hw_id_of_an_odd_size_is_refused() -> None:
    chain = mint_chain(hw_id=CHIP_ID[:9])
    report = build_snp(chip_id=CHIP_ID[:9].ljust(64, b"\0"))
    assert refusal(chain, report) == "endorsements.chip"


def test_a_vcek_for_a_report_signed_by_a_vlek_is_refused() -> None:
    report = build_snp(key_info=VLEK_KEY_INFO)
    assert refusal(mint_chain(), report) == "endorsements.chip"


def test_a_vlek_for_a_report_signed_by_a_vcek_is_refused() -> None:
    chain = mint_chain(hw_id=None, csp_id="a cloud")
    assert refusal(chain, build_snp()) == "endorsements.chip"


def test_a_microcode_version_of_two_der_bytes_is_read_whole() -> None:
    assert read_extensions(mint_chain().signer).tcb.microcode == 0xDB


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x02",
        bytes(300),
        b"\x02\x00",
        b"\x02\x02\x01",
        b"\x02\x02\x01\x00",
        b"\x02\x01\xff",
    ],
)
def test_a_security_version_that_is_not_a_byte_is_malformed(value: bytes) -> None:
    extensions = dict(amd_extensions(MILAN_TCB, product="Milan", hw_id=CHIP_ID))
    extensions["1.3.6.1.4.1.3704.1.3.8"] = value
    certificate = vcek(extensions=tuple(extensions.items()))
    with pytest.raises(EndorsementsError) as caught:
        read_extensions(certificate)
    assert caught.value.code == "endorsements.malformed"


def test_version_2_takes_its_generation_from_the_certificate() -> None:
    report = build_snp(version=2)
    assert chip_generation(report, mint_chain().signer) == Generation.MILAN


def test_version_2_without_a_product_name_goes_by_its_chip_id() -> None:
    chain = mint_chain(tcb=TURIN_TCB, product="", hw_id=SHORT_CHIP_ID[:8])
    report = build_snp(version=2, tcb=TURIN_TCB, chip_id=SHORT_CHIP_ID)
    assert chip_generation(report, chain.signer) == Generation.TURIN


def test_version_3_takes_its_generation_from_the_cpuid() -> None:
    report = build_snp(cpuid=(0x19, 0x11, 1))
    assert chip_generation(report, mint_chain().signer) == Generation.GENOA


def test_an_unknown_generation_is_unsupported() -> None:
    chain = mint_chain(product="Tomorrow")
    with pytest.raises(UnsupportedEvidenceError) as caught:
        chip_generation(build_snp(cpuid=(0x1B, 0, 0)), chain.signer)
    assert caught.value.code == "evidence.unsupported"


def test_thims_answer_gives_the_chain_and_its_tcb() -> None:
    chain = mint_chain()
    found = parse_thim_response(json.dumps(thim_answer(chain)).encode())
    assert found.pem == chain.pem
    assert found.tcbm == "DB18000000000004"


def test_a_chain_in_another_order_is_put_in_order() -> None:
    chain = mint_chain()
    parts = chain.pem.decode().split("-----BEGIN")[1:]
    reverse = "".join("-----BEGIN" + part for part in reversed(parts))
    assert parse_pem_chain(reverse.encode()) == chain


def test_a_root_given_twice_counts_once() -> None:
    chain = mint_chain()
    assert parse_pem_chain(chain.pem + chain.pem) == chain


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 50_000,
        b" " * (MAX_CERTIFICATES_BYTES + 1),
        json.dumps(thim_answer(mint_chain()) | {"vcekCert": None}).encode(),
        json.dumps(thim_answer(mint_chain()) | {"certificateChain": ""}).encode(),
        json.dumps(thim_answer(mint_chain()) | {"certificateChain": "é"}).encode(),
        json.dumps(thim_answer(mint_chain()) | {"vcekCert": "no PEM"}).encode(),
    ],
)
def test_a_broken_answer_of_thim_is_malformed(answer: bytes) -> None:
    with pytest.raises(EndorsementsError) as caught:
        parse_thim_response(answer)
    assert caught.value.code == "endorsements.malformed"


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_chain_that_lacks_one_is_malformed(missing: int) -> None:
    parts = mint_chain().pem.decode().split("-----BEGIN")[1:]
    del parts[missing]
    with pytest.raises(EndorsementsError) as caught:
        parse_pem_chain("".join("-----BEGIN" + part for part in parts).encode())
    assert caught.value.code == "endorsements.malformed"


def test_nine_certificates_are_malformed() -> None:
    with pytest.raises(EndorsementsError) as caught:
        parse_pem_chain(mint_chain().pem * 3)
    assert caught.value.code == "endorsements.malformed"


def test_two_chips_certificates_are_malformed() -> None:
    chain = mint_chain()
    with pytest.raises(EndorsementsError) as caught:
        find_signer((chain.signer, mint_chain(hw_id=bytes(64)).signer))
    assert caught.value.code == "endorsements.malformed"


def test_roots_are_known_by_their_fingerprints() -> None:
    chain = mint_chain()
    assert roots_of(chain) < set(parse_roots(chain.pem).roots)


def test_certificates_longer_than_any_chain_are_malformed() -> None:
    with pytest.raises(EndorsementsError) as caught:
        parse_pem_chain(mint_chain().pem + b"#" * MAX_CERTIFICATES_BYTES)
    assert caught.value.code == "endorsements.malformed"


def test_an_extension_given_twice_is_malformed() -> None:
    fitting = amd_extensions(MILAN_TCB, product="Milan-B0", hw_id=CHIP_ID)
    der = vcek(extensions=fitting).public_bytes(Encoding.DER)
    # .3.1 becomes a second .3.2
    oid = bytes.fromhex("2b060104019c780103")
    (certificate,) = load_certificates(der.replace(oid + b"\x01", oid + b"\x02", 1))
    with pytest.raises(EndorsementsError) as caught:
        read_extensions(certificate)
    assert caught.value.code == "endorsements.malformed"


@pytest.mark.parametrize("value", [b"\x04\x05Milan", b"", b"\x16", b"\x16\x06Milan"])
def test_a_product_name_that_is_not_a_string_is_empty(value: bytes) -> None:
    extensions = dict(amd_extensions(MILAN_TCB, product="Milan", hw_id=CHIP_ID))
    extensions["1.3.6.1.4.1.3704.1.2"] = value
    found = read_extensions(vcek(extensions=tuple(extensions.items())))
    assert found.product_name == ""
