"""The emulated HCL report has the offsets, sizes and names of captured reports."""

from __future__ import annotations

import base64
import json
import struct
from typing import TYPE_CHECKING

import pytest

from skragent.emulator.paravisor.hcl_report import RuntimeData, encode_hcl_report

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.vectors

CAPTURES = ("azure-snp-milan-v2", "azure-snp-milan-v3")


@pytest.fixture(params=CAPTURES)
def captured(request: pytest.FixtureRequest, vectors: Path) -> bytes:
    report: bytes = (vectors / request.param / "hcl-report.bin").read_bytes()
    return report


def test_header_and_request_data_have_the_captured_layout(captured: bytes) -> None:
    claims = RuntimeData(
        ak_modulus=1 << 2047,
        ek_modulus=1 << 2047,
        vm_id="0F8E4B3A-6A2F-4D6E-9C51-27F1A6B0C9D8",
        secure_boot=True,
        user_data=bytes(64),
    ).encode()
    ours = encode_hcl_report(captured[32:1216], claims, version=1)
    assert len(ours) == len(captured)
    assert ours[:32] == captured[:32]
    assert ours[0x4C0:0x4D4] == captured[0x4C0:0x4D4]


def test_the_encoder_reproduces_a_captured_report_from_its_values(
    captured: bytes,
) -> None:
    """Compare all bytes; the signed hardware report is copied."""
    (length,) = struct.unpack_from("<I", captured, 0x4D0)
    document = json.loads(captured[0x4D4 : 0x4D4 + length])
    ak, ek = (int.from_bytes(unpadded(key["n"])) for key in document["keys"])
    claims = RuntimeData(
        ak_modulus=ak,
        ek_modulus=ek,
        vm_id=document["vm-configuration"]["vmUniqueId"],
        secure_boot=document["vm-configuration"]["secure-boot"],
        user_data=bytes.fromhex(document["user-data"]),
    ).encode()
    ours = encode_hcl_report(captured[32:1216], claims, version=1)
    assert ours == captured


def unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "==")
