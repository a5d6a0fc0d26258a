"""RSA public keys as the vTPM hands them out: TPM2B_PUBLIC and object names.

TPM 2.0 part 2: TPMT_PUBLIC (12.2.4), TPMS_RSA_PARMS (12.2.3.5), Name (part 1, 16).
Only RSA: AK and wrapping key of an Azure vTPM are RSA-2048.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RsaPublic:
    """An RSA public key, without any opinion on its use."""

    modulus: int
    exponent: int


@dataclass(frozen=True, slots=True)
class TpmPublic:
    """The public area of an RSA object in a TPM."""

    raw: bytes  # TPM2B_PUBLIC, trailing bytes cut off
    attributes: int  # TPMA_OBJECT
    policy: bytes  # authPolicy; empty for none
    rsa: RsaPublic
    name: bytes  # nameAlg || SHA-256(TPMT_PUBLIC)


def parse_tpm2b_public(data: bytes) -> TpmPublic:
    """Read a TPM2B_PUBLIC; bytes after it are ignored, as verifiers do.

    Raises:
        MalformedEvidenceError: it does not parse.
        UnsupportedEvidenceError: no RSA key, or its name is not SHA-256's.
    """
    raise NotImplementedError
