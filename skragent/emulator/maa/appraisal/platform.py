"""Appraise SEV-SNP evidence: report, endorsements and runtime data.

Guest attestation, in which the paravisor owns the report, and platform attestation
(`/attest/SevSnpVm`) both use it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skragent.emulator.maa.appraisal import claims
from skragent.emulator.maa.appraisal.endorsements import verify_endorsements
from skragent.emulator.maa.appraisal.fields import (
    base64_member,
    decoded,
    invalid,
    member,
    parsed_object,
)
from skragent.emulator.maa.appraisal.snp_report import parse_snp_report

if TYPE_CHECKING:
    import datetime as dt

    from skragent.emulator.maa.appraisal.endorsements import Endorsements
    from skragent.emulator.maa.appraisal.snp_report import SnpReport

_SHA256_BYTES = 32
_NO_HOST_DATA = bytes(32)


@dataclass(frozen=True, slots=True)
class Trust:
    """The roots that the verifier trusts."""

    arks: frozenset[bytes]  # DER
    vtpm_roots: frozenset[bytes] = frozenset()  # DER; empty: any AK certificate


@dataclass(frozen=True, slots=True)
class PlatformEvidence:
    """A verified report and the runtime data that it binds."""

    report: SnpReport
    endorsements: Endorsements
    runtime_data: bytes


def verify_snp_evidence(
    proof: dict[str, Any], runtime_data: bytes, trust: Trust, now: dt.datetime
) -> PlatformEvidence:
    """Verify a report, its endorsements and its runtime data, or refuse it."""
    report = parse_snp_report(base64_member(proof, "SnpReport"))
    pem = base64_member(proof, "VcekCertChain")
    endorsements = verify_endorsements(pem, trust.arks)
    endorsements.verify_lifetime(now)
    endorsements.verify_matches(report)
    if report.chip_key_is_masked:
        raise invalid("The SNP report is not signed: MASK_CHIP_KEY is set.")
    report.verify_signature(endorsements.vcek)
    if report.vmpl != 0:
        raise invalid(f"The SNP report is of VMPL {report.vmpl}, not 0.")
    if report.is_debuggable:
        raise invalid("The SNP report is of a debuggable guest.")
    if report.migration_allowed:
        raise invalid("The SNP report is of a guest with a migration agent.")
    digest = hashlib.sha256(runtime_data).digest()
    if report.report_data != digest + bytes(_SHA256_BYTES):
        raise invalid("REPORT_DATA is not the SHA-256 of the runtime data.")
    return PlatformEvidence(report, endorsements, runtime_data)


def appraise_platform_request(
    body: dict[str, Any], trust: Trust, now: dt.datetime
) -> dict[str, Any]:
    """Appraise a SevSnpVm request; return the token's claims."""
    proof = parsed_object(base64_member(body, "report"), "report")
    runtime_data, kind = _typed_data(body, "runtimeData")
    evidence = verify_snp_evidence(proof, runtime_data, trust, now)
    runtime = parsed_object(runtime_data, "runtimeData") if kind == "JSON" else None
    result = claims.snp_claims(
        evidence.report, evidence.endorsements, runtime, _compliance(evidence, runtime)
    )
    init_time_data, init_kind = _typed_data(body, "initTimeData")
    if init_time_data:
        if hashlib.sha256(init_time_data).digest() != evidence.report.host_data:
            raise invalid("HOST_DATA is not the SHA-256 of the init-time data.")
        if init_kind == "JSON":
            result["x-ms-inittime"] = parsed_object(init_time_data, "initTimeData")
    # Returned unchanged: the specification has a string, the sidecar sends a number.
    if isinstance(body.get("nonce"), str | int):
        result["nonce"] = body["nonce"]
    return result | claims.common_claims()


def _typed_data(body: dict[str, Any], name: str) -> tuple[bytes, str]:
    """Read `{"data", "dataType"}`; the sidecar sends both empty for no data."""
    if body.get(name) is None:
        return b"", ""
    document = member(body, name, dict)
    data = decoded(document.get("data", ""), name)
    kind = document.get("dataType", "")
    if data and kind not in ("JSON", "Binary"):
        raise invalid(f"{name}.dataType is neither JSON nor Binary.")
    return data, str(kind)


def _compliance(
    evidence: PlatformEvidence, runtime: dict[str, Any] | None
) -> str | None:
    """Return the kind of utility VM, by the emulator's own rule.

    Azure decides by measurement and endorsement. Here, runtime data with the vTPM's AK
    makes a CVM, and a container's policy in HOST_DATA makes a UVM.
    """
    keys = (runtime or {}).get("keys")
    if isinstance(keys, list) and any(
        isinstance(key, dict) and key.get("kid") == "HCLAkPub" for key in keys
    ):
        return "azure-compliant-cvm"
    if evidence.report.host_data != _NO_HOST_DATA:
        return "azure-compliant-uvm"
    return None
