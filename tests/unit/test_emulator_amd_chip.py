"""The minted chip: its chain and reports, verified without the emulator's code."""

from __future__ import annotations

import asyncio
import struct
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.utils import CryptographyDeprecationWarning
from support.vtpm import NOW, minted_chip

from skragent.emulator.amd.certificates import mint_vcek
from skragent.emulator.amd.chip import Chip
from skragent.emulator.amd.snp_report import PRODUCTS, Tcb

if TYPE_CHECKING:
    from pathlib import Path

    from skragent.emulator.amd.snp_report import ReportVersion

DATA = bytes(range(64))
AMD = "1.3.6.1.4.1.3704.1"


@pytest.fixture
def chip() -> Chip:
    chip = Chip.load(minted_chip(), "milan")
    assert chip is not None
    return chip


def load(der: bytes) -> x509.Certificate:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the serial number 0 of a VCEK, as AMD's
        return x509.load_der_x509_certificate(der)


def extensions(der: bytes) -> dict[str, bytes]:
    return {
        one.oid.dotted_string.removeprefix(f"{AMD}."): one.value.value
        for one in load(der).extensions
        if isinstance(one.value, x509.UnrecognizedExtension)
    }


def verify(report: bytes, vcek_der: bytes) -> None:
    """Verify a report's signature as the firmware ABI defines it."""
    r, s = (
        int.from_bytes(report[start : start + 72], "little") for start in (0x2A0, 0x2E8)
    )
    key = load(vcek_der).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(encode_dss_signature(r, s), report[:0x2A0], ec.ECDSA(hashes.SHA384()))


def test_chain_leads_from_chip_to_root(chip: Chip) -> None:
    ark, ask, vcek = map(load, (chip.root.ark_der, chip.root.ask_der, chip.vcek_der))
    vcek.verify_directly_issued_by(ask)
    ask.verify_directly_issued_by(ark)
    ark.verify_directly_issued_by(ark)
    assert [one.subject.rfc4514_string().split(",")[0] for one in (ark, ask, vcek)] == [
        "CN=ARK-Milan",
        "CN=SEV-Milan",
        "CN=SEV-VCEK",
    ]


def test_vcek_has_the_serial_number_zero(chip: Chip) -> None:
    with pytest.warns(CryptographyDeprecationWarning, match="positive"):
        assert x509.load_der_x509_certificate(chip.vcek_der).serial_number == 0


def test_vcek_is_signed_with_pss_and_a_salt_of_48_bytes(chip: Chip) -> None:
    parameters = load(chip.vcek_der).signature_algorithm_parameters
    assert parameters._salt_length == 48  # type: ignore[union-attr]


def test_vcek_names_chip_and_tcb_in_amds_extensions(chip: Chip) -> None:
    found = extensions(chip.vcek_der)
    assert found.pop("4") == chip.chip_id  # raw, not DER within
    assert {name: value.hex() for name, value in found.items()} == {
        "1": "020100",
        "2": "16084d696c616e2d4230",  # IA5String Milan-B0
        "3.1": "020104",
        "3.2": "020100",
        "3.3": "020118",
        "3.4": "020100",
        "3.5": "020100",
        "3.6": "020100",
        "3.7": "020100",
        "3.8": "020200db",  # 0x80 and above: two bytes
    }


def test_turins_vcek_has_an_fmc_and_a_short_hardware_id(chip: Chip) -> None:
    der = mint_vcek(
        PRODUCTS["turin"],
        bytes(8),
        ec.generate_private_key(ec.SECP384R1()).public_key(),
        chip.root.ask_der,
        chip.root.ask_key,
        now=NOW,
    )
    found = extensions(der)
    assert (found["3.9"].hex(), found["4"]) == ("020101", bytes(8))


def test_the_two_tcb_layouts_differ() -> None:
    assert Tcb(1, 2, 3, 4).encode() == bytes([1, 2, 0, 0, 0, 0, 3, 4])
    assert Tcb(1, 2, 3, 4, fmc=9).encode() == bytes([9, 1, 2, 3, 0, 0, 0, 4])


def test_thim_certification_has_the_members_of_imds(chip: Chip) -> None:
    answer = chip.thim_certification()
    assert list(answer) == ["vcekCert", "tcbm", "certificateChain", "cacheControl"]
    assert answer["tcbm"] == "DB18000000000004"
    assert answer["vcekCert"].endswith("-----END CERTIFICATE-----\n")
    chain = x509.load_pem_x509_certificates(answer["certificateChain"].encode())
    assert [one.serial_number for one in chain] == [0x10001, 0x10000]  # ASK, ARK
    assert answer["certificateChain"].endswith(chip.ark_pem)


@pytest.mark.parametrize("version", [2, 3, 5])
def test_report_is_signed_by_the_chip(chip: Chip, version: ReportVersion) -> None:
    chip.report_version = version
    report = chip.attest(DATA)
    assert len(report) == 1184
    assert struct.unpack_from("<I", report)[0] == version
    verify(report, chip.vcek_der)


def test_report_has_its_fields_where_the_abi_has_them(chip: Chip) -> None:
    report = chip.attest(DATA)
    assert struct.unpack_from("<Q", report, 0x08) == (0x3001F,)
    assert struct.unpack_from("<II", report, 0x30) == (0, 1)  # VMPL, algorithm
    assert report[0x50:0x90] == DATA
    assert report[0x1A0:0x1E0] == chip.chip_id
    assert report[0x188:0x18B] == bytes([0x19, 1, 1])
    for offset in (0x38, 0x180, 0x1E0, 0x1F0):  # current, reported, committed, launch
        assert report[offset : offset + 8] == PRODUCTS["milan"].tcb.encode()
    assert not any(report[0x330:])  # past R and S


def test_version_two_has_no_cpuid(chip: Chip) -> None:
    chip.report_version = 2
    assert chip.attest(DATA)[0x188:0x18B] == bytes(3)


def test_report_of_another_chip_does_not_verify_with_this_ones_certificate(
    chip: Chip,
) -> None:
    other = asyncio.run(Chip.mint(now=NOW, root=chip.root))
    verify(other.attest(DATA), other.vcek_der)
    with pytest.raises(InvalidSignature):
        verify(other.attest(DATA), chip.vcek_der)


def test_fields_can_be_set_otherwise(chip: Chip) -> None:
    debuggable = replace(chip.describe(DATA), policy=0x3001F | 1 << 19)
    report = chip.sign(debuggable)
    assert struct.unpack_from("<Q", report, 0x08) == (0xB001F,)
    verify(report, chip.vcek_der)


def test_chip_is_saved_and_loaded(chip: Chip, tmp_path: Path) -> None:
    assert Chip.load(tmp_path / "chip", "milan") is None
    chip.save(tmp_path / "chip")
    again = Chip.load(tmp_path / "chip", "milan")
    assert again is not None
    assert again.thim_certification() == chip.thim_certification()
    verify(again.attest(DATA), chip.vcek_der)
    assert (tmp_path / "chip").stat().st_mode & 0o777 == 0o700
    assert {one.stat().st_mode & 0o777 for one in (tmp_path / "chip").iterdir()} == {
        0o600
    }
