"""The HCL report in NV index 0x01400001 of a confidential VM's vTPM.

Host Compatibility Layer report: header (unmeasured), hardware report, request data, and
runtime data (JSON) whose hash is in the hardware report. Sources: microsoft/openvmm,
openhcl_attestation_protocol, igvm_attest/get.rs; captured reports.
docs/protocols/vtpm.md has the layout.

`snp` parses the hardware report, and `snp_signature` verifies its signature.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import json
import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from skragent.errors import (
    BindingError,
    Disposition,
    MalformedEvidenceError,
    UnsupportedEvidenceError,
)
from skragent.evidence.byte_reader import Reader
from skragent.evidence.snp import SNP_REPORT_BYTES, SnpReport, parse_snp_report
from skragent.evidence.tpm_public import RsaPublic

if TYPE_CHECKING:
    from collections.abc import Mapping

HCL_SIGNATURE = b"HCLA"
HEADER_BYTES = 0x20
REQUEST_DATA_BYTES = 20
_RUNTIME_DATA_OFFSET = HEADER_BYTES + SNP_REPORT_BYTES + REQUEST_DATA_BYTES
MAX_HCL_REPORT_BYTES = 16 * 1024  # the largest observed index has 2900

# A newer header is decoded as version 2. Versions 1 and 2 have one layout, no signature
# covers the header, and its size must match. REPORT_DATA binds the runtime data: with
# another layout the hash would not match.
_FIRST_HEADER_VERSION, _NEWEST_HEADER_VERSION = 1, 2

# Only this version of the request data is decoded. Version 2 is for the host only and
# has a capability bitmap before the claims, so a newer version may differ, too. A wrong
# layout would be reported as a binding that does not hold.
_REQUEST_DATA_VERSION = 1
_SNP = 2
_REPORT_TYPES = {1: "VBS", _SNP: "SEV-SNP", 3: "TVM", 4: "TDX", 5: "CCA"}

_AK = "HCLAkPub"
_EK = "HCLEkPub"
_GUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_USER_DATA_BYTES = 64
_MIN_MODULUS_BYTES, _MAX_MODULUS_BYTES = 256, 512
_MAX_EXPONENT_BYTES = 4


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
    # No check depends on these members; an absent or malformed member is unknown.
    ek_public: RsaPublic | None  # HCLEkPub; absent in old reports
    vm_unique_id: str  # upper-case GUID; empty if unknown
    is_secure_boot: bool | None
    user_data: bytes | None  # 64 bytes of NV 0x01400002; None in old reports
    vm_configuration: Mapping[str, object]  # as it is, for people


@dataclass(frozen=True, slots=True)
class HclReport:
    """An HCL report whose hardware report is SNP's."""

    version: int  # of the header
    snp_report: SnpReport
    hash_type: HashType
    runtime_data: RuntimeData

    @property
    def layout_version(self) -> int:
        """The version of the header that it was decoded as."""
        return min(self.version, _NEWEST_HEADER_VERSION)

    @property
    def version_note(self) -> str:
        """A note for people if the version is unknown; else empty."""
        if self.version == self.layout_version:
            return ""
        return (
            f"the header of the HCL report has version {self.version}, decoded as"
            f" version {self.layout_version}"
        )


def parse_hcl_report(data: bytes) -> HclReport:
    """Parse an HCL report; the zeros after it in the NV index are ignored.

    Raises:
        MalformedEvidenceError: it does not parse.
        UnsupportedEvidenceError: its hardware report is not SNP's, or its layout is
            not known.
    """
    if len(data) > MAX_HCL_REPORT_BYTES:
        raise MalformedEvidenceError(
            f"an HCL report of {len(data)} bytes: at most {MAX_HCL_REPORT_BYTES}"
        )
    reader = Reader(data, "the HCL report", "little")
    version, used = _read_header(reader)
    hardware = reader.take(SNP_REPORT_BYTES)
    hash_type, length = _read_request_data(reader)
    raw = reader.take(length)
    # In both versions of the header this is the total: 1236 bytes and the runtime data.
    if used != _RUNTIME_DATA_OFFSET + length:
        raise MalformedEvidenceError(
            f"the HCL report declares {used} bytes,"
            f" but its parts have {_RUNTIME_DATA_OFFSET + length}"
        )
    if any(reader.take(reader.left)):
        raise MalformedEvidenceError(
            "the HCL report is followed by bytes that are not zero"
        )
    return HclReport(
        version=version,
        snp_report=parse_snp_report(hardware),
        hash_type=hash_type,
        runtime_data=parse_runtime_data(raw),
    )


def _read_header(reader: Reader) -> tuple[int, int]:
    if reader.take(4) != HCL_SIGNATURE:
        raise MalformedEvidenceError("these bytes do not begin with HCLA")
    version, used = reader.number(4), reader.number(4)
    if version < _FIRST_HEADER_VERSION:
        raise UnsupportedEvidenceError(
            f"this is version {version} of the HCL report; the first known is 1"
        )
    reader.take(HEADER_BYTES - reader.position)  # request type, status, reserved
    return version, used


def _read_request_data(reader: Reader) -> tuple[HashType, int]:
    """Return the hash that binds the runtime data, and the length of that data.

    The report type is checked first, because a TDX report has another layout in the
    space of the hardware report.
    """
    size, version, report_type = reader.number(4), reader.number(4), reader.number(4)
    hash_type, length = reader.number(4), reader.number(4)
    if report_type != _SNP:
        name = _REPORT_TYPES.get(report_type)
        if name is None:
            raise MalformedEvidenceError(
                f"{report_type} is not a known type of hardware report in an HCL report"
            )
        raise UnsupportedEvidenceError(
            f"the hardware report is of type {name}; only SEV-SNP is supported",
            disposition=Disposition.FATAL,
            hint="Use a VM of a series with AMD SEV-SNP: DCasv5, ECasv5 and newer.",
        )
    if version != _REQUEST_DATA_VERSION:
        raise UnsupportedEvidenceError(
            f"the HCL report's request data has version {version}; 1 is known"
        )
    if size != REQUEST_DATA_BYTES + length:
        raise MalformedEvidenceError(
            f"the HCL report's request data declares {size} bytes, but has"
            f" {REQUEST_DATA_BYTES + length}"
        )
    try:
        return HashType(hash_type), length
    except ValueError as error:
        raise MalformedEvidenceError(
            f"{hash_type} is not a known hash of an HCL report"
        ) from error


def parse_runtime_data(raw: bytes) -> RuntimeData:
    """Parse the runtime data's JSON. Only the AK is required.

    Any other member of an unexpected form is unknown: a new paravisor may change the
    form, and the verifier reads the members itself.

    Raises:
        MalformedEvidenceError: this is not a JSON object with an AK.
    """
    claims = _parse_object(raw)
    keys = claims.get("keys")
    by_kid = {
        key.get("kid"): key
        for key in (keys if isinstance(keys, list) else [])
        if isinstance(key, dict) and isinstance(key.get("kid"), str)
    }
    if _AK not in by_kid:
        raise MalformedEvidenceError(f"the runtime data has no key {_AK}")
    configuration = claims.get("vm-configuration")
    if not isinstance(configuration, dict):
        configuration = {}
    vm_id = configuration.get("vmUniqueId")
    secure_boot = configuration.get("secure-boot")
    return RuntimeData(
        raw=raw,
        ak_public=_parse_jwk(by_kid[_AK], _AK),
        ek_public=_find_ek(by_kid.get(_EK)),
        vm_unique_id=_parse_guid(vm_id),
        is_secure_boot=secure_boot if isinstance(secure_boot, bool) else None,
        user_data=_parse_user_data(claims.get("user-data")),
        vm_configuration=MappingProxyType(configuration),
    )


def _parse_object(raw: bytes) -> dict[str, object]:
    try:
        claims = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise MalformedEvidenceError("the runtime data is not JSON") from error
    if not isinstance(claims, dict):
        raise MalformedEvidenceError("the runtime data is not a JSON object")
    return claims


def _find_ek(key: dict[str, object] | None) -> RsaPublic | None:
    try:
        return None if key is None else _parse_jwk(key, _EK)
    except MalformedEvidenceError:  # such as an EC key
        return None


def _parse_jwk(key: dict[str, object], kid: str) -> RsaPublic:
    modulus = _parse_base64url(key.get("n"), kid)
    exponent = _parse_base64url(key.get("e"), kid)
    fits = (
        key.get("kty") == "RSA"
        and _MIN_MODULUS_BYTES <= len(modulus) <= _MAX_MODULUS_BYTES
        and 0 < len(exponent) <= _MAX_EXPONENT_BYTES
    )
    if not fits:
        raise MalformedEvidenceError(f"the runtime data's {kid} is not an RSA key")
    return RsaPublic(int.from_bytes(modulus, "big"), int.from_bytes(exponent, "big"))


def _parse_base64url(text: object, kid: str) -> bytes:
    """Decode the unpadded base64url of a JWK member (RFC 7518 §2)."""
    if not isinstance(text, str):
        raise MalformedEvidenceError(f"the runtime data's {kid} lacks a member")
    try:
        padded = text + "=" * (-len(text) % 4)
        return base64.b64decode(padded.encode("ascii"), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise MalformedEvidenceError(
            f"the runtime data's {kid} is not base64url"
        ) from error


def _parse_guid(text: object) -> str:
    if not isinstance(text, str) or not _GUID.fullmatch(text):
        return ""
    return text.upper()


def _parse_user_data(text: object) -> bytes | None:
    """Decode user-data: hex in either case; absent or empty in old reports."""
    try:
        user_data = bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        return None
    return user_data if len(user_data) == _USER_DATA_BYTES else None


def verify_runtime_data_binding(report: HclReport) -> None:
    """Verify that REPORT_DATA is the hash of the runtime data, then zeros.

    Raises:
        BindingError: evidence.binding. The paravisor renews the report when it is
            read, so a mismatch is likely to be a race: read the report again.
    """
    digest = hashlib.new(report.hash_type.name, report.runtime_data.raw).digest()
    report_data = report.snp_report.report_data
    if report_data != digest.ljust(len(report_data), b"\0"):
        raise BindingError("REPORT_DATA is not the hash of the runtime data")
