"""The HCL report's layout, and how its runtime data is bound."""

from __future__ import annotations

import hashlib
import json
import struct

import pytest

from skragent.emulator.paravisor.hcl_report import (
    HeaderVersion,
    RuntimeData,
    encode_hcl_report,
    report_data,
)

MODULUS = (1 << 2047) + 1
CLAIMS = RuntimeData(
    ak_modulus=MODULUS,
    ek_modulus=MODULUS + 2,
    vm_id="0F8E4B3A-6A2F-4D6E-9C51-27F1A6B0C9D8",
    secure_boot=True,
    user_data=bytes(range(0xC0, 0x100)),
).encode()


@pytest.mark.parametrize("version", [1, 2])
def test_header_counts_what_is_used(version: HeaderVersion) -> None:
    report = encode_hcl_report(b"R" * 1184, CLAIMS, version=version)
    length = len(CLAIMS)
    assert len(report) == 2600
    assert struct.unpack_from("<4sIIII12s", report) == (
        b"HCLA", version, 1236 + length, 2, 0, bytes(12),
    )  # fmt: skip
    assert report[32:1216] == b"R" * 1184
    assert struct.unpack_from("<IIIII", report, 0x4C0) == (20 + length, 1, 2, 1, length)
    assert report[0x4D4 : 0x4D4 + length] == CLAIMS
    assert not any(report[0x4D4 + length :])


def test_runtime_data_is_compact_and_in_the_order_of_captures() -> None:
    text = CLAIMS.decode()
    document = json.loads(text)
    assert json.dumps(document, separators=(",", ":")) == text
    assert list(document) == ["keys", "vm-configuration", "user-data"]
    assert [list(key) for key in document["keys"]] == [
        ["kid", "key_ops", "kty", "e", "n"]
    ] * 2
    assert [(key["kid"], key["key_ops"]) for key in document["keys"]] == [
        ("HCLAkPub", ["sign"]),
        ("HCLEkPub", ["encrypt"]),
    ]
    assert {len(key["n"]) for key in document["keys"]} == {342}


def test_first_reports_had_the_ak_alone_and_fit_a_smaller_index() -> None:
    claims = RuntimeData(
        ak_modulus=MODULUS,
        ek_modulus=None,
        vm_id="0F8E4B3A-6A2F-4D6E-9C51-27F1A6B0C9D8",
        secure_boot=True,
        user_data=None,
    ).encode()
    document = json.loads(claims)
    assert list(document) == ["keys", "vm-configuration"]
    assert [key["kid"] for key in document["keys"]] == ["HCLAkPub"]
    report = encode_hcl_report(b"R" * 1184, claims, version=1, index_bytes=2048)
    assert len(report) == 2048


def test_user_data_is_upper_case_hex() -> None:
    assert json.loads(CLAIMS)["user-data"] == bytes(range(0xC0, 0x100)).hex().upper()


def test_report_data_is_the_hash_and_zeros() -> None:
    assert report_data(CLAIMS) == hashlib.sha256(CLAIMS).digest() + bytes(32)
