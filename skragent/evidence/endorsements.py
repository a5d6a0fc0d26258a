"""The certificates that vouch for the report's signer: ARK -> ASK -> VCEK (or VLEK).

AMD: "Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface
Specification". Azure hands them out as THIM answers.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from skragent.evidence.snp import SnpReport
from skragent.evidence.tcb import Generation

# SHA-256 over the DER of AMD's root certificates (ARK), from https://kdsintf.amd.com.
AMD_ROOTS = frozenset(
    bytes.fromhex(fingerprint)
    for fingerprint in (
        # Milan
        "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
        # Genoa
        "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
        # Turin
        "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
    )
)


@dataclass(frozen=True, slots=True)
class Endorsements:
    """A chain: parsed, its signatures not yet verified."""

    pem: bytes  # PEM text, VCEK first, then ASK and ARK: what the verifier gets
    signer: x509.Certificate  # VCEK or VLEK
    intermediate: x509.Certificate  # ASK or ASVK
    root: x509.Certificate  # ARK
    tcbm: str = ""  # THIM's word on the reported TCB it is for; empty from files


def parse_thim_answer(data: bytes) -> Endorsements:
    """Read what IMDS answers at /metadata/THIM/amd/certification.

    Raises:
        EndorsementsError: endorsements.malformed
    """
    raise NotImplementedError


def parse_pem_chain(data: bytes) -> Endorsements:
    """Read a PEM file of VCEK (or VLEK), ASK (or ASVK) and ARK, in any order.

    Raises:
        EndorsementsError: endorsements.malformed
    """
    raise NotImplementedError


def parse_roots(pem: bytes) -> frozenset[bytes]:
    """Read a PEM file of root certificates to trust; gives their fingerprints.

    Raises:
        EndorsementsError: endorsements.malformed
    """
    raise NotImplementedError


def chip_generation(report: SnpReport, signer: x509.Certificate) -> Generation:
    """Tell the generation from the report or, for version 2, from its certificate.

    Raises:
        UnsupportedEvidenceError: neither tells, or it is one unknown to this code.
    """
    raise NotImplementedError


def verify_endorsements(
    endorsements: Endorsements,
    report: SnpReport,
    *,
    now: datetime,
    roots: AbstractSet[bytes] = AMD_ROOTS,
) -> None:
    """Verify the chain up to a trusted root and that it is for this report's signer.

    Args:
        endorsements: the chain.
        report: whose chip and reported TCB the signer's certificate must name.
        now: aware; all three certificates must be valid then.
        roots: SHA-256 fingerprints of the ARKs to trust.

    Raises:
        EndorsementsError: endorsements.root, .chain, .tcb, .chip
    """
    raise NotImplementedError


def verify_report_signature(report: SnpReport, signer: x509.Certificate) -> None:
    """Verify the report's signature with the key of its VCEK or VLEK.

    Raises:
        BindingError: evidence.signature
    """
    raise NotImplementedError
