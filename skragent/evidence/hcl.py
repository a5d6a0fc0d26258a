"""The HCL report: what NV index 0x01400001 of an Azure confidential VM's vTPM holds.

Host Compatibility Layer report: header, hardware report, request data with the
runtime data (JSON) whose hash the hardware report vouches for.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from skragent.evidence.public import RsaPublic
from skragent.evidence.snp import SnpReport


class HashType(enum.Enum):
    """The hash that binds runtime data to REPORT_DATA."""

    SHA256 = 1
    SHA384 = 2
    SHA512 = 3


@dataclass(frozen=True, slots=True)
class RuntimeData:
    """The paravisor's claims about this VM, as JSON and decoded."""

    raw: bytes  # exactly the bytes that are hashed
    ak_public: RsaPublic  # HCLAkPub
    ek_public: RsaPublic | None  # HCLEkPub; absent in old reports
    vm_unique_id: str  # upper-case GUID; empty if absent
    is_secure_boot: bool | None  # None if absent
    user_data: bytes | None  # 64 bytes of NV 0x01400002; None in old reports
    vm_configuration: Mapping[str, object]  # everything it says, for people


@dataclass(frozen=True, slots=True)
class HclReport:
    """An HCL report whose hardware report is SNP's."""

    version: int  # of the header: 1 or 2
    snp_report: SnpReport
    hash_type: HashType
    runtime_data: RuntimeData


def parse_hcl_report(data: bytes) -> HclReport:
    """Read an HCL report; zero padding after it is ignored, as the NV index has it.

    Raises:
        MalformedEvidenceError: it does not parse.
        UnsupportedEvidenceError: its hardware report is not SNP's.
    """
    raise NotImplementedError


def verify_runtime_data_binding(report: HclReport) -> None:
    """Verify that REPORT_DATA is the hash of the runtime data, then zeros.

    Raises:
        BindingError: evidence.binding
    """
    raise NotImplementedError
