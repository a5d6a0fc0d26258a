"""The SNP report's fields, in every version and both TCB layouts."""

from __future__ import annotations

import pytest
from support.evidence import build_report, build_snp, encode_tcb
from support.evidence_amd import MILAN_TCB, SHORT_CHIP_ID, TURIN_TCB

from skragent.errors import MalformedEvidenceError, UnsupportedEvidenceError
from skragent.evidence.snp import Cpuid, SigningKey, parse_snp_report
from skragent.evidence.tcb import (
    Generation,
    Tcb,
    decode_tcb,
    generation_of_cpuid,
    generation_of_product_name,
)


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_every_known_version_parses(version: int) -> None:
    assert build_snp(version=version).version == version


@pytest.mark.parametrize("version", [2, 5])
def test_a_known_version_is_decoded_as_itself(version: int) -> None:
    report = build_snp(version=version)
    assert report.layout_version == version
    assert report.version_note == ""


@pytest.mark.parametrize("version", [6, 7, 0xFFFFFFFF])
def test_a_newer_version_is_decoded_with_the_newest_known_layout(version: int) -> None:
    report = build_snp(version=version, mitigations=(3, 5))
    newest = build_snp(version=5, mitigations=(3, 5))
    assert report.version == version
    assert report.layout_version == 5
    assert report.cpuid == newest.cpuid
    assert report.current_mitigation_vector == newest.current_mitigation_vector
    assert report.chip_id == newest.chip_id
    assert report.signed[4:] == newest.signed[4:]
    assert f"version {version}, decoded as version 5" in report.version_note


@pytest.mark.parametrize("version", [0, 1])
def test_a_version_before_the_first_is_unsupported(version: int) -> None:
    with pytest.raises(UnsupportedEvidenceError) as caught:
        build_snp(version=version)
    assert caught.value.code == "evidence.unsupported"


@pytest.mark.parametrize("size", [0, 1183, 1185])
def test_a_report_of_another_size_is_malformed(size: int) -> None:
    data = build_report().ljust(size, b"\0")[:size]
    with pytest.raises(MalformedEvidenceError) as caught:
        parse_snp_report(data)
    assert caught.value.code == "evidence.malformed"


def test_version_2_has_no_cpuid() -> None:
    assert build_snp(version=2).cpuid is None


def test_version_3_has_a_cpuid() -> None:
    assert build_snp(cpuid=(0x19, 0x11, 2)).cpuid == Cpuid(0x19, 0x11, 2)


def test_version_4_has_no_mitigation_vectors() -> None:
    report = build_snp(version=4, mitigations=(3, 5))
    assert report.launch_mitigation_vector is None
    assert report.current_mitigation_vector is None


def test_version_5_has_mitigation_vectors() -> None:
    report = build_snp(version=5, mitigations=(3, 5))
    assert report.launch_mitigation_vector == 3
    assert report.current_mitigation_vector == 5


def test_firmware_versions_read_major_minor_build() -> None:
    report = build_snp()
    assert report.current_version == "1.55.29"
    assert report.committed_version == "1.52.4"


@pytest.mark.parametrize(
    ("bit", "claim"),
    [
        (16, "is_smt_allowed"),
        (18, "is_migration_agent_allowed"),
        (19, "is_debuggable"),
        (20, "is_single_socket"),
        (21, "is_cxl_allowed"),
        (22, "is_aes_256_xts_required"),
        (23, "is_rapl_disabled"),
        (24, "is_ciphertext_hiding_required"),
        (25, "is_page_swap_disabled"),
    ],
)
def test_each_policy_bit_has_its_claim(bit: int, claim: str) -> None:
    assert getattr(build_snp(policy=1 << bit).policy, claim) is True
    assert getattr(build_snp(policy=~(1 << bit) & 0xFFFFFFFF).policy, claim) is False


def test_the_policy_tells_the_least_abi() -> None:
    assert build_snp(policy=0x3011F).policy.abi == "1.31"


def test_platform_bits_have_names_and_unknown_ones_a_number() -> None:
    names = build_snp(platform_info=0b1001_0000_0001).platform_info.names
    assert names == ("SMT", "bit 8", "bit 11")


@pytest.mark.parametrize(
    ("key_info", "key"),
    [
        (0, SigningKey.VCEK),
        (1 << 2, SigningKey.VLEK),
        (7 << 2, SigningKey.NONE),
        (3 << 2, SigningKey.RESERVED),
    ],
)
def test_key_info_tells_the_signing_key(key_info: int, key: SigningKey) -> None:
    assert build_snp(key_info=key_info).key_info.signing_key == key


def test_key_info_has_the_masking_of_the_chip_key() -> None:
    assert not build_snp(key_info=1).key_info.is_chip_key_masked
    assert build_snp(key_info=2).key_info.is_chip_key_masked


@pytest.mark.parametrize(
    ("family", "model", "generation"),
    [
        (0x19, 0x00, Generation.MILAN),
        (0x19, 0x0F, Generation.MILAN),
        (0x19, 0x10, Generation.GENOA),
        (0x19, 0xA0, Generation.GENOA),
        (0x19, 0x20, None),
        (0x1A, 0x11, Generation.TURIN),
        (0x1A, 0x12, None),
        (0x1A, 0x50, Generation.VENICE),
        (0x1A, 0xC7, Generation.VENICE),
        (0x17, 0x31, None),
    ],
)
def test_the_cpuid_tells_the_generation(
    family: int, model: int, generation: Generation | None
) -> None:
    assert generation_of_cpuid(family, model) == generation


@pytest.mark.parametrize(
    ("name", "generation"),
    [
        ("Milan-B0", Generation.MILAN),
        ("Genoa", Generation.GENOA),
        ("Turin-C1", Generation.TURIN),
        ("Naples", None),
        ("", None),
    ],
)
def test_the_product_name_tells_the_generation(
    name: str, generation: Generation | None
) -> None:
    assert generation_of_product_name(name) == generation


def test_a_short_chip_id_in_version_2_is_turins() -> None:
    assert build_snp(version=2, chip_id=SHORT_CHIP_ID).generation == Generation.TURIN


def test_a_long_chip_id_in_version_2_shows_no_generation() -> None:
    assert build_snp(version=2).generation is None


def test_a_hidden_chip_id_in_version_2_shows_no_generation() -> None:
    assert build_snp(version=2, chip_id=bytes(64)).generation is None


@pytest.mark.parametrize("tcb", [MILAN_TCB, TURIN_TCB])
def test_a_tcb_decodes_in_its_generations_layout(tcb: Tcb) -> None:
    generation = Generation.MILAN if tcb.fmc is None else Generation.TURIN
    assert decode_tcb(encode_tcb(tcb), generation) == tcb


def test_the_two_layouts_read_the_same_bytes_differently() -> None:
    raw = encode_tcb(TURIN_TCB)
    assert decode_tcb(raw, Generation.GENOA) != decode_tcb(raw, Generation.VENICE)


def test_a_tcb_describes_itself_with_the_fmc_only_where_there_is_one() -> None:
    assert TURIN_TCB.describe().startswith("fmc 1, boot loader 2, ")
    assert MILAN_TCB.describe() == "boot loader 4, tee 0, snp 24, microcode 219"


def test_a_tcb_of_another_size_is_our_mistake() -> None:
    with pytest.raises(ValueError, match="eight bytes"):
        decode_tcb(bytes(7), Generation.MILAN)
