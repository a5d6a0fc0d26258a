"""Verify the SNP report's signature: ECDSA on P-384 with SHA-384, little-endian.

SEV-SNP firmware ABI, ATTESTATION_REPORT and "Format for an ECDSA P-384 with SHA-384
signature". `endorsements` verifies the trust in the certificate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from skragent.certificates import CertificateError, reading
from skragent.errors import BindingError
from skragent.evidence.snp import (
    ECDSA_P384_SHA384,
    SIGNATURE_PART_BYTES,
    SIGNED_BYTES,
    SigningKey,
    SnpReport,
)

if TYPE_CHECKING:
    from cryptography import x509


def verify_report_signature(report: SnpReport, signer: x509.Certificate) -> None:
    """Verify the report's signature with the key of its VCEK or VLEK.

    Raises:
        BindingError: evidence.signature
    """
    problem = _find_problem(report)
    if problem:
        raise _error(f"the report's signature cannot be valid: {problem}")
    try:
        with reading("the key of the certificate"):
            public_key = signer.public_key()
            if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(
                public_key.curve, ec.SECP384R1
            ):
                raise _error("the certificate's key is not on P-384")
            public_key.verify(
                utils.encode_dss_signature(report.signature_r, report.signature_s),
                report.signed,
                ec.ECDSA(hashes.SHA384()),
            )
    except CertificateError as error:
        raise _error("the report was not signed with this certificate's key") from error


def _error(message: str) -> BindingError:
    return BindingError(message, code="evidence.signature")


def _find_problem(report: SnpReport) -> str:
    """Return why the report's fields rule out a valid signature; else empty."""
    if report.key_info.is_chip_key_masked:
        return "the host masked it (MASK_CHIP_KEY)"
    if report.key_info.signing_key not in {SigningKey.VCEK, SigningKey.VLEK}:
        return f"its signing key is {report.key_info.signing_key.name}"
    if report.signature_algorithm != ECDSA_P384_SHA384:
        return f"algorithm {report.signature_algorithm} is not ECDSA P-384 with SHA-384"
    # The signature does not cover these bytes: AMD's table says that they are zero.
    if any(report.raw[SIGNED_BYTES + 2 * SIGNATURE_PART_BYTES :]):
        return "its reserved bytes are not zero"
    return ""
