"""Parse AMD's ATTESTATION_REPORT (SEV-SNP firmware ABI, table 22).

The report has 1184 bytes, little-endian. The parser reads only the fields that become
claims or decide about the evidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from skragent.emulator.maa.appraisal.fields import invalid

Product = Literal["Milan", "Genoa", "Turin"]

REPORT_BYTES = 0x4A0
_SIGNED_BYTES = 0x2A0
_COMPONENT_BYTES = 72  # R and S are little-endian, zero-padded from 48
_ECDSA_P384_SHA384 = 1
_FIRST_VERSION_WITH_CPUID = 3
_FAMILY_19H, _FAMILY_1AH = 0x19, 0x1A
_LAST_MILAN_MODEL = 0x0F

# TCB_VERSION: the position of each firmware's number in the eight bytes.
_LEGACY_TCB = {"bootloader": 0, "tee": 1, "snp": 6, "microcode": 7}
_TURIN_TCB = {"fmc": 0, "bootloader": 1, "tee": 2, "snp": 3, "microcode": 7}


@dataclass(frozen=True, slots=True)
class SnpReport:
    """A parsed report; nothing is verified yet."""

    raw: bytes
    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    key_info: int
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    chip_id: bytes

    @property
    def smt_allowed(self) -> bool:
        """Policy bit 16."""
        return bool(self.policy >> 16 & 1)

    @property
    def migration_allowed(self) -> bool:
        """Policy bit 18: a migration agent is allowed."""
        return bool(self.policy >> 18 & 1)

    @property
    def is_debuggable(self) -> bool:
        """Policy bit 19."""
        return bool(self.policy >> 19 & 1)

    @property
    def chip_key_is_masked(self) -> bool:
        """MASK_CHIP_KEY: the signature is all zeros."""
        return bool(self.key_info >> 1 & 1)

    def reported_tcb(self, product: Product) -> dict[str, int]:
        """Return the reported TCB by firmware, in this product's layout."""
        layout = _TURIN_TCB if product == "Turin" else _LEGACY_TCB
        return {name: self.raw[0x180 + index] for name, index in layout.items()}

    @property
    def product(self) -> Product | None:
        """The product by CPUID; None for version 2, which does not have it."""
        if self.version < _FIRST_VERSION_WITH_CPUID:
            return None
        family, model = self.raw[0x188], self.raw[0x189]
        if family == _FAMILY_19H:
            return "Milan" if model <= _LAST_MILAN_MODEL else "Genoa"
        return "Turin" if family == _FAMILY_1AH else None

    def verify_signature(self, key: ec.EllipticCurvePublicKey) -> None:
        """Verify ECDSA P-384 over the first 0x2A0 bytes, or refuse."""
        r = _uint(self.raw, 0x2A0, _COMPONENT_BYTES)
        s = _uint(self.raw, 0x2A0 + _COMPONENT_BYTES, _COMPONENT_BYTES)
        try:
            key.verify(
                encode_dss_signature(r, s),
                self.raw[:_SIGNED_BYTES],
                ec.ECDSA(hashes.SHA384()),
            )
        except InvalidSignature as error:
            raise invalid("The SNP report's signature is not the VCEK's.") from error


def _uint(data: bytes, offset: int, size: int) -> int:
    return int.from_bytes(data[offset : offset + size], "little")


def parse_snp_report(data: bytes) -> SnpReport:
    """Parse a report, or refuse it."""
    if len(data) != REPORT_BYTES:
        raise invalid(f"The SNP report is not {REPORT_BYTES} bytes long.")
    report = SnpReport(
        raw=data,
        version=_uint(data, 0x000, 4),
        guest_svn=_uint(data, 0x004, 4),
        policy=_uint(data, 0x008, 8),
        family_id=data[0x010:0x020],
        image_id=data[0x020:0x030],
        vmpl=_uint(data, 0x030, 4),
        key_info=_uint(data, 0x048, 4),
        report_data=data[0x050:0x090],
        measurement=data[0x090:0x0C0],
        host_data=data[0x0C0:0x0E0],
        id_key_digest=data[0x0E0:0x110],
        author_key_digest=data[0x110:0x140],
        report_id=data[0x140:0x160],
        chip_id=data[0x1A0:0x1E0],
    )
    if report.version not in (2, 3, 4, 5):
        raise invalid(f"SNP report version {report.version} is not supported.")
    if _uint(data, 0x034, 4) != _ECDSA_P384_SHA384:
        raise invalid("The SNP report's signature algorithm is not ECDSA P-384.")
    if any(data[0x2A0 + 2 * _COMPONENT_BYTES :]):
        raise invalid("The SNP report's signature has bytes beyond R and S.")
    return report
