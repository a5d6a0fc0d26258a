"""Encode the SEV-SNP ATTESTATION_REPORT as firmware writes it: values to 1184 bytes.

SEV-SNP firmware ABI specification, table ATTESTATION_REPORT, versions 2, 3 and 5. All
fields are little-endian. `chip` signs the report, and `paravisor` chooses its
REPORT_DATA.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Literal

REPORT_BYTES: Final = 0x4A0
SIGNED_BYTES: Final = 0x2A0
_COMPONENT_BYTES: Final = 72  # R and S: little-endian, padded with zeros

Generation = Literal["milan", "genoa", "turin"]
ReportVersion = Literal[2, 3, 5]


@dataclass(frozen=True, slots=True)
class Tcb:
    """TCB_VERSION: the security versions of the chip's firmware."""

    bootloader: int
    tee: int
    snp: int
    microcode: int
    fmc: int | None = None  # only Turin has an FMC, and another layout

    def encode(self) -> bytes:
        """Return the eight bytes of TCB_VERSION in the product's layout."""
        if self.fmc is None:
            low = [self.bootloader, self.tee, 0, 0, 0, 0, self.snp]
        else:
            low = [self.fmc, self.bootloader, self.tee, self.snp, 0, 0, 0]
        return bytes([*low, self.microcode])


@dataclass(frozen=True, slots=True)
class Product:
    """The values that differ between AMD generations."""

    name: str  # in the subject names: ARK-NAME, SEV-NAME
    product_name: str  # in the VCEK's extension
    cpuid: tuple[int, int, int]  # family, model, stepping
    tcb: Tcb
    chip_id_bytes: int  # length of the hardware id within CHIP_ID's 64 bytes


PRODUCTS: Final[dict[Generation, Product]] = {
    # A microcode SPL of 0xDB takes two bytes as a DER INTEGER, as on real machines.
    "milan": Product("Milan", "Milan-B0", (0x19, 1, 1), Tcb(4, 0, 24, 0xDB), 64),
    "genoa": Product("Genoa", "Genoa", (0x19, 0x11, 1), Tcb(10, 0, 23, 84), 64),
    "turin": Product("Turin", "Turin", (0x1A, 2, 1), Tcb(1, 1, 4, 81, fmc=1), 8),
}


@dataclass(frozen=True, slots=True)
class SnpReport:
    """The fields of a report; the defaults are those of an Azure VM."""

    report_data: bytes
    measurement: bytes
    id_key_digest: bytes
    report_id: bytes
    chip_id: bytes
    current_tcb: Tcb
    reported_tcb: Tcb
    committed_tcb: Tcb
    launch_tcb: Tcb
    version: ReportVersion = 3
    guest_svn: int = 10
    # ABI 0.31, SMT allowed, reserved bit 17 set; debugging and migration disallowed.
    policy: int = 0x3001F
    family_id: bytes = bytes.fromhex("02212000000000000000000000000000")
    image_id: bytes = bytes.fromhex("02000000000000000000000000000000")
    vmpl: int = 0
    platform_info: int = 0x25  # SMT, ECC, ALIAS_CHECK
    key_info: int = 0  # signed by the VCEK, chip key not masked
    host_data: bytes = bytes(32)
    author_key_digest: bytes = bytes(48)
    report_id_ma: bytes = b"\xff" * 32
    cpuid: tuple[int, int, int] = (0, 0, 0)
    firmware: tuple[int, int, int] = (0x1D, 0x37, 0x01)  # build, minor, major

    def encode(self) -> bytes:
        """Return the 0x2A0 bytes that the signature covers."""
        head = struct.pack("<IIQ", self.version, self.guest_svn, self.policy)
        head += self.family_id + self.image_id
        head += struct.pack("<II", self.vmpl, 1)  # ECDSA P-384 with SHA-384
        head += self.current_tcb.encode()
        head += struct.pack("<QII", self.platform_info, self.key_info, 0)
        head += self.report_data + self.measurement + self.host_data
        head += self.id_key_digest + self.author_key_digest
        head += self.report_id + self.report_id_ma
        head += self.reported_tcb.encode()
        # Version 3 added the CPUID fields.
        head += bytes(self.cpuid if self.version >= 3 else (0, 0, 0))  # noqa: PLR2004 - see above
        head = head.ljust(0x1A0, b"\0") + self.chip_id
        head += self.committed_tcb.encode()
        head += bytes([*self.firmware, 0]) * 2  # current, then committed
        head += self.launch_tcb.encode()
        # LAUNCH_MIT_VECTOR and CURRENT_MIT_VECTOR of version 5 are zero.
        return head.ljust(SIGNED_BYTES, b"\0")


def encode_signature(r: int, s: int) -> bytes:
    """Return the signature field: R, S, padded with zeros to 512 bytes."""
    pair = r.to_bytes(_COMPONENT_BYTES, "little") + s.to_bytes(
        _COMPONENT_BYTES, "little"
    )
    return pair.ljust(REPORT_BYTES - SIGNED_BYTES, b"\0")
