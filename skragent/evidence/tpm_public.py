"""RSA public keys of the vTPM: TPM2B_PUBLIC, object names, the wrapping key's template.

TPM 2.0 part 2: TPMT_PUBLIC (12.2.4), TPMS_RSA_PARMS (12.2.3.5), Name (part 1, 16).
Only RSA: the AK and the wrapping key of an Azure vTPM are RSA-2048.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from skragent.errors import MalformedEvidenceError, UnsupportedEvidenceError
from skragent.evidence.byte_reader import Reader

TPM_ALG_RSA = 0x0001
TPM_ALG_SHA256 = 0x000B
TPM_ALG_NULL = 0x0010
TPM_ALG_RSASSA = 0x0014
TPM_ALG_RSAES = 0x0015

# TPMA_OBJECT: fixedTPM, fixedParent, sensitiveDataOrigin, noDA, decrypt. No
# userWithAuth: only the PCR policy can use the key.
WRAPPING_KEY_ATTRIBUTES = 0x00020432
WRAPPING_KEY_BYTES = 256  # RSA-2048

_DEFAULT_EXPONENT = 65537  # the meaning of exponent 0
_MAX_MODULUS_BITS = (
    4096  # a TPM has no longer keys; a longer modulus would only cost time
)


@dataclass(frozen=True, slots=True)
class RsaPublic:
    """An RSA public key: two integers."""

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
    """Parse a TPM2B_PUBLIC; ignore bytes after it, as verifiers do.

    Raises:
        MalformedEvidenceError: the bytes do not parse.
        UnsupportedEvidenceError: this is not an RSA key with a SHA-256 name.
    """
    outer = Reader(data, "the TPM's public area")
    public = outer.sized()
    reader = Reader(public, "the TPM's public area")
    kind, name_algorithm = reader.number(2), reader.number(2)
    if kind != TPM_ALG_RSA or name_algorithm != TPM_ALG_SHA256:
        raise UnsupportedEvidenceError(
            f"a key of type {kind:#06x} with a name by {name_algorithm:#06x}"
            " is not RSA with SHA-256"
        )
    attributes = reader.number(4)
    policy = reader.sized()
    rsa = _read_rsa(reader)
    reader.end()
    return TpmPublic(
        raw=data[: outer.position],
        attributes=attributes,
        policy=policy,
        rsa=rsa,
        name=TPM_ALG_SHA256.to_bytes(2, "big") + hashlib.sha256(public).digest(),
    )


def _read_rsa(reader: Reader) -> RsaPublic:
    """Read TPMS_RSA_PARMS and TPM2B_PUBLIC_KEY_RSA."""
    if reader.number(2) != TPM_ALG_NULL:  # symmetric: only a storage key has one
        reader.take(4)  # key bits, mode
    scheme = reader.number(2)
    if scheme not in {TPM_ALG_NULL, TPM_ALG_RSAES}:
        reader.take(2)  # the scheme's hash
    bits, exponent = reader.number(2), reader.number(4)
    modulus = reader.sized()
    if bits > _MAX_MODULUS_BITS or len(modulus) * 8 != bits:
        raise MalformedEvidenceError(
            f"an RSA key of {bits} bits has a modulus of {len(modulus)} bytes"
        )
    if not modulus or not modulus[0] & 0x80 or not modulus[-1] & 1:
        raise MalformedEvidenceError("an RSA modulus is shorter than its size, or even")
    return RsaPublic(
        modulus=int.from_bytes(modulus, "big"),
        exponent=exponent or _DEFAULT_EXPONENT,
    )


def encode_wrapping_key_template(policy: bytes, unique: bytes) -> bytes:
    """Encode the TPM2B_PUBLIC that the wrapping key is created from.

    The scheme is NULL, so each decryption chooses RSAES or OAEP.

    Args:
        policy: the authPolicy, 32 bytes.
        unique: 256 bytes. In the NULL hierarchy the key is a function of these bytes,
            of the rest of the template and of the TPM's present boot.
    """
    if len(unique) != WRAPPING_KEY_BYTES:
        raise ValueError(f"`unique` has {WRAPPING_KEY_BYTES} bytes")
    public = b"".join(
        (
            _u16(TPM_ALG_RSA),
            _u16(TPM_ALG_SHA256),
            WRAPPING_KEY_ATTRIBUTES.to_bytes(4, "big"),
            _u16(len(policy)) + policy,
            _u16(TPM_ALG_NULL),  # symmetric
            _u16(TPM_ALG_NULL),  # scheme
            _u16(WRAPPING_KEY_BYTES * 8),
            bytes(4),  # exponent: the default
            _u16(len(unique)) + unique,
        )
    )
    return _u16(len(public)) + public


def _u16(value: int) -> bytes:
    return value.to_bytes(2, "big")
