"""Evidence: everything that a guest attestation is made of, in one value.

`verify_evidence` is an early sanity check, so that a broken VM is told apart from an
unwilling verifier. It decides nothing: the verifier and the vault do.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime

from skragent.evidence.endorsements import AMD_ROOTS, Endorsements
from skragent.evidence.hcl import HclReport
from skragent.evidence.quote import SignedAttest


@dataclass(frozen=True, slots=True)
class Evidence:
    """What hardware, paravisor and vTPM say about this VM."""

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
    """Verify that all of it belongs together, down to AMD's root.

    Returns:
        one sentence for each thing that was verified.

    Raises:
        EvidenceError: BindingError and its codes.
        EndorsementsError: the chain, and its codes.
    """
    raise NotImplementedError
