"""The SEV-SNP attestation report: parse 1184 bytes into named fields.

SEV-SNP firmware ABI, ATTESTATION_REPORT table, versions 2 to 5. Version 3 added the
CPUID, version 5 the mitigation vectors; version 4 reads as 3.

A newer version is decoded as version 5. So far, each version has only given a meaning
to bytes that were reserved. The verifier gets the report as it is, and the signature is
over the same bytes. If a field had moved, the checks of chip and TCB against AMD's
certificate would fail.

`snp_signature` verifies the signature, and `hcl` the binding to the runtime data. Only
the verifier and the vault appraise the values.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from skragent.errors import MalformedEvidenceError, UnsupportedEvidenceError
from skragent.evidence.byte_reader import Reader
from skragent.evidence.tcb import Generation, Tcb, decode_tcb, generation_of_cpuid

SNP_REPORT_BYTES = 0x4A0
SIGNED_BYTES = 0x2A0  # the signature covers the bytes before this offset
SIGNATURE_PART_BYTES = 72
CHIP_ID_BYTES = 64
SHORT_CHIP_ID_BYTES = 8  # Turin and newer: the rest of CHIP_ID is zero
ECDSA_P384_SHA384 = 1  # SIGNATURE_ALGO

_FIRST_VERSION, _NEWEST_VERSION = 2, 5
_FIRST_VERSION_WITH_CPUID = 3
_FIRST_VERSION_WITH_MITIGATIONS = 5


class SigningKey(enum.Enum):
    """KEY_INFO.SIGNING_KEY: which endorsement key signed the report."""

    VCEK = 0
    VLEK = 1
    NONE = 7
    RESERVED = -1  # 2 to 6


@dataclass(frozen=True, slots=True)
class Policy:
    """GUEST_POLICY: the limits that the guest's owner set at launch."""

    raw: int

    def _bit(self, number: int) -> bool:
        return bool(self.raw >> number & 1)

    @property
    def abi(self) -> str:
        """The least firmware ABI version that the guest accepts."""
        return f"{self.raw >> 8 & 0xFF}.{self.raw & 0xFF}"

    @property
    def is_smt_allowed(self) -> bool:
        """Bit 16: simultaneous multi-threading."""
        return self._bit(16)

    @property
    def is_migration_agent_allowed(self) -> bool:
        """Bit 18: a migration agent may be associated."""
        return self._bit(18)

    @property
    def is_debuggable(self) -> bool:
        """Bit 19: the host may decrypt the guest's memory."""
        return self._bit(19)

    @property
    def is_single_socket(self) -> bool:
        """Bit 20: the guest runs on one socket only."""
        return self._bit(20)

    @property
    def is_cxl_allowed(self) -> bool:
        """Bit 21: CXL may be populated with devices or memory."""
        return self._bit(21)

    @property
    def is_aes_256_xts_required(self) -> bool:
        """Bit 22: memory encryption has to be AES-256-XTS."""
        return self._bit(22)

    @property
    def is_rapl_disabled(self) -> bool:
        """Bit 23: running average power limit has to be off."""
        return self._bit(23)

    @property
    def is_ciphertext_hiding_required(self) -> bool:
        """Bit 24: DRAM ciphertext has to be hidden."""
        return self._bit(24)

    @property
    def is_page_swap_disabled(self) -> bool:
        """Bit 25 (version 5): pages of the guest must not be swapped or moved."""
        return self._bit(25)


_PLATFORM_BITS = {
    0: "SMT",
    1: "TSME",
    2: "ECC",
    3: "RAPL disabled",
    4: "ciphertext hiding",
    5: "alias check",
    7: "TIO",
}


@dataclass(frozen=True, slots=True)
class PlatformInfo:
    """PLATFORM_INFO: the configuration of the host."""

    raw: int

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the set bits; unknown bits by their number."""
        return tuple(
            _PLATFORM_BITS.get(bit, f"bit {bit}")
            for bit in range(self.raw.bit_length())
            if self.raw >> bit & 1
        )


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """KEY_INFO: the signing key, and whether the host masked the signature."""

    raw: int

    @property
    def is_chip_key_masked(self) -> bool:
        """Bit 1, MASK_CHIP_KEY: by the host's wish the signature is zero."""
        return bool(self.raw >> 1 & 1)

    @property
    def signing_key(self) -> SigningKey:
        """Bits 2 to 4."""
        value = self.raw >> 2 & 7
        known = {key.value for key in SigningKey}
        return SigningKey(value) if value in known else SigningKey.RESERVED


@dataclass(frozen=True, slots=True)
class Cpuid:
    """Combined family and model, and stepping, of the chip (version 3 and newer)."""

    family: int
    model: int
    stepping: int


@dataclass(frozen=True, slots=True)
class SnpReport:
    """An attestation report. TCBs are raw: `decode_tcb` needs the generation."""

    raw: bytes  # all 1184 bytes; the verifier receives them unchanged
    version: int
    guest_svn: int
    policy: Policy
    family_id: bytes
    image_id: bytes
    vmpl: int
    signature_algorithm: int
    platform_info: PlatformInfo
    key_info: KeyInfo
    report_data: bytes  # 64 bytes; on Azure the hash of the runtime data
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    current_tcb: bytes
    reported_tcb: bytes  # the one that the VCEK is derived from
    committed_tcb: bytes
    launch_tcb: bytes
    cpuid: Cpuid | None  # None in version 2
    chip_id: bytes
    current_version: str  # firmware major.minor.build
    committed_version: str
    launch_mitigation_vector: int | None  # None before version 5
    current_mitigation_vector: int | None
    signature_r: int
    signature_s: int

    @property
    def layout_version(self) -> int:
        """The version that it was decoded as."""
        return min(self.version, _NEWEST_VERSION)

    @property
    def version_note(self) -> str:
        """A note for people if the version is unknown; else empty."""
        if self.version == self.layout_version:
            return ""
        return (
            f"the SNP report has version {self.version}, decoded as version"
            f" {self.layout_version}: fields that are newer are not shown"
        )

    @property
    def signed(self) -> bytes:
        """The bytes that the signature covers."""
        return self.raw[:SIGNED_BYTES]

    @property
    def generation(self) -> Generation | None:
        """The generation that the report shows by itself; None if it does not.

        Version 2 has no CPUID, but a chip id with only its first eight bytes set is a
        Turin's. `endorsements.chip_generation` also uses the certificate.
        """
        if self.cpuid is not None:
            return generation_of_cpuid(self.cpuid.family, self.cpuid.model)
        tail = self.chip_id[SHORT_CHIP_ID_BYTES:]
        if any(self.chip_id) and not any(tail):
            return Generation.TURIN
        return None

    def decode_reported_tcb(self, generation: Generation) -> Tcb:
        """Decode the TCB that the signing key is derived from."""
        return decode_tcb(self.reported_tcb, generation)


def parse_snp_report(data: bytes) -> SnpReport:
    """Parse an attestation report of exactly 1184 bytes.

    Raises:
        MalformedEvidenceError: the size is wrong.
        UnsupportedEvidenceError: a version before 2, which Azure VMs do not have.
    """
    if len(data) != SNP_REPORT_BYTES:
        raise MalformedEvidenceError(
            f"an SNP report has {SNP_REPORT_BYTES} bytes, these are {len(data)}"
        )
    reader = Reader(data, "the SNP report", "little")
    version = reader.number(4)
    if version < _FIRST_VERSION:
        raise UnsupportedEvidenceError(
            f"this is version {version} of the SNP report; the first known is 2"
        )
    # Arguments are evaluated in order. The order is that of AMD's table.
    return SnpReport(
        raw=data,
        version=version,
        guest_svn=reader.number(4),
        policy=Policy(reader.number(8)),
        family_id=reader.take(16),
        image_id=reader.take(16),
        vmpl=reader.number(4),
        signature_algorithm=reader.number(4),
        current_tcb=reader.take(8),
        platform_info=PlatformInfo(reader.number(8)),
        key_info=_read_key_info(reader),
        report_data=reader.take(64),
        measurement=reader.take(48),
        host_data=reader.take(32),
        id_key_digest=reader.take(48),
        author_key_digest=reader.take(48),
        report_id=reader.take(32),
        report_id_ma=reader.take(32),
        reported_tcb=reader.take(8),
        cpuid=_read_cpuid(reader, version),
        chip_id=reader.take(CHIP_ID_BYTES),
        committed_tcb=reader.take(8),
        current_version=_read_firmware_version(reader),
        committed_version=_read_firmware_version(reader),
        launch_tcb=reader.take(8),
        launch_mitigation_vector=_read_mitigation_vector(reader, version),
        current_mitigation_vector=_read_mitigation_vector(reader, version),
        signature_r=_read_signature_part(reader, SIGNED_BYTES),
        signature_s=_read_signature_part(reader, SIGNED_BYTES + SIGNATURE_PART_BYTES),
    )


def _read_key_info(reader: Reader) -> KeyInfo:
    value = reader.number(4)
    reader.take(4)  # reserved
    return KeyInfo(value)


def _read_cpuid(reader: Reader, version: int) -> Cpuid | None:
    family, model, stepping = reader.take(3)
    reader.take(21)  # reserved
    if version < _FIRST_VERSION_WITH_CPUID:
        return None
    return Cpuid(family, model, stepping)


def _read_firmware_version(reader: Reader) -> str:
    build, minor, major, _reserved = reader.take(4)
    return f"{major}.{minor}.{build}"


def _read_mitigation_vector(reader: Reader, version: int) -> int | None:
    value = reader.number(8)
    return None if version < _FIRST_VERSION_WITH_MITIGATIONS else value


def _read_signature_part(reader: Reader, offset: int) -> int:
    """Read R or S of the signature: 72 bytes, little-endian."""
    reader.take(offset - reader.position)  # reserved
    return reader.number(SIGNATURE_PART_BYTES)
