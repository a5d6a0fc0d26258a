"""The evidence of a guest attestation as one value, and its verification.

`verify_evidence` is an early sanity check: it reports a broken VM more precisely than a
refusal by the verifier would. Only the verifier and the vault appraise the values:
firmware, policy, PCRs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from skragent.errors import BindingError
from skragent.evidence.endorsements import (
    AMD_ROOTS,
    Endorsements,
    chip_generation,
    verify_endorsements,
)
from skragent.evidence.hcl import HclReport, verify_runtime_data_binding
from skragent.evidence.quote import (
    QUOTED_PCRS,
    SignedAttest,
    compute_policy_pcr,
    verify_certification,
    verify_quote,
)
from skragent.evidence.snp_signature import verify_report_signature
from skragent.evidence.tpm_public import (
    WRAPPING_KEY_ATTRIBUTES,
    TpmPublic,
    parse_tpm2b_public,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class Evidence:
    """The statements of hardware, paravisor and vTPM about this VM."""

    hcl_report: HclReport
    endorsements: Endorsements
    ak_certificate: bytes  # DER as read from NV, maybe zero-padded
    ak_public: bytes  # TPM2B_PUBLIC
    pcrs: tuple[bytes, ...]  # SHA-256 bank, 0 to 7
    quote: SignedAttest
    wrapping_key_public: bytes  # TPM2B_PUBLIC
    wrapping_key_certification: SignedAttest
    tcg_log: bytes  # trimmed; may be empty


def verify_evidence(
    evidence: Evidence, *, now: datetime, roots: AbstractSet[bytes] = AMD_ROOTS
) -> tuple[str, ...]:
    """Verify that the parts belong together, up to AMD's root.

    Args:
        evidence: the collected evidence.
        now: aware; the certificates must be valid then.
        roots: SHA-256 fingerprints of the trusted ARKs; see `parse_roots`.

    Returns:
        One sentence for each verified fact, for people.

    Raises:
        EvidenceError: BindingError or MalformedEvidenceError.
        EndorsementsError: the chain does not hold; see `verify_endorsements`.
    """
    report = evidence.hcl_report.snp_report
    verify_runtime_data_binding(evidence.hcl_report)
    ak = parse_tpm2b_public(evidence.ak_public)
    verify_ak_binding(ak, evidence.hcl_report)
    verify_endorsements(evidence.endorsements, report, now=now, roots=roots)
    verify_report_signature(report, evidence.endorsements.signer)
    verify_quote(evidence.quote, ak.rsa, evidence.pcrs)
    key = parse_tpm2b_public(evidence.wrapping_key_public)
    verify_wrapping_key(key, evidence.pcrs)
    verify_certification(evidence.wrapping_key_certification, ak.rsa, key)
    generation = chip_generation(report, evidence.endorsements.signer).value
    signer = report.key_info.signing_key.name
    return (
        "REPORT_DATA is the hash of the runtime data",
        "this vTPM's AK is the one in the runtime data",
        f"the {signer} chains to a trusted AMD root and fits this {generation} report",
        f"the SNP report is signed with the {signer}",
        f"the AK quoted PCR {QUOTED_PCRS[0]} to {QUOTED_PCRS[-1]} with these values",
        "the AK certified the wrapping key, which is bound to these PCRs",
    )


def verify_ak_binding(ak: TpmPublic, report: HclReport) -> None:
    """Verify that the runtime data, and so the hardware report, names this AK.

    Raises:
        BindingError: evidence.ak_mismatch
    """
    if ak.rsa != report.runtime_data.ak_public:
        raise BindingError(
            "this vTPM's AK is not the one in the HCL report",
            code="evidence.ak_mismatch",
        )


def verify_wrapping_key(key: TpmPublic, pcrs: Sequence[bytes]) -> None:
    """Verify that only PCRs with these values can use the key.

    Raises:
        BindingError: evidence.quote
    """
    if key.attributes != WRAPPING_KEY_ATTRIBUTES or key.policy != compute_policy_pcr(
        pcrs
    ):
        raise BindingError(
            "the wrapping key is not bound to these PCRs", code="evidence.quote"
        )
