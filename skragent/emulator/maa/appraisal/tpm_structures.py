"""Parse the TPM 2.0 structures of an attestation (TPM 2.0, part 2).

TPM2B_PUBLIC of RSA keys, TPMS_ATTEST of a quote and of a certification, and the
PolicyPCR digest (part 3, §23.7).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from skragent.emulator.maa.appraisal.fields import Reader, invalid

_ALG_RSA = 0x0001
_ALG_SHA256 = 0x000B
_ALG_NULL = 0x0010
_ALG_RSASSA = 0x0014
_MAGIC = 0xFF544347  # TPM_GENERATED_VALUE
_ST_ATTEST_CERTIFY = 0x8017
_ST_ATTEST_QUOTE = 0x8018
_CC_POLICY_PCR = 0x0000017F
_CLOCK_INFO_BYTES = 17  # clock 8, resetCount 4, restartCount 4, safe 1
_RSA_BITS = 2048

# TPMA_OBJECT
FIXED_TPM, FIXED_PARENT, SENSITIVE_DATA_ORIGIN = 1 << 1, 1 << 4, 1 << 5
RESTRICTED, DECRYPT, SIGN = 1 << 16, 1 << 17, 1 << 18
NO_DA = 1 << 10


@dataclass(frozen=True, slots=True)
class RsaPublicArea:
    """A TPMT_PUBLIC of an RSA-2048 key with name algorithm SHA-256."""

    raw: bytes
    attributes: int
    auth_policy: bytes
    scheme: int
    key: rsa.RSAPublicKey

    @property
    def name(self) -> bytes:
        """The object's name: algorithm and digest of the public area."""
        return _ALG_SHA256.to_bytes(2, "big") + hashlib.sha256(self.raw).digest()

    @property
    def modulus(self) -> int:
        """The public modulus."""
        return self.key.public_numbers().n


@dataclass(frozen=True, slots=True)
class Quote:
    """The PCR selection and digest of a quote."""

    selection: tuple[int, ...]
    pcr_digest: bytes


def parse_public(data: bytes, what: str) -> RsaPublicArea:
    """Parse a TPM2B_PUBLIC; bytes after it are ignored.

    The Python client sends the whole response to TPM2_ReadPublic, including the names.
    """
    raw = Reader(data, what).sized()
    reader = Reader(raw, what)
    reader.expect(2, _ALG_RSA, "type")
    reader.expect(2, _ALG_SHA256, "nameAlg")
    attributes = reader.uint(4)
    auth_policy = reader.sized()
    reader.expect(2, _ALG_NULL, "symmetric")
    scheme = reader.uint(2)
    if scheme != _ALG_NULL:
        reader.expect(2, _ALG_SHA256, "the scheme's hash")
    reader.expect(2, _RSA_BITS, "keyBits")
    exponent = reader.uint(4) or 65537  # 0 means the default
    modulus = int.from_bytes(reader.sized(), "big")
    reader.finish()
    try:
        key = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError as error:
        raise invalid(f"{what} is not a usable RSA key.") from error
    if key.key_size != _RSA_BITS:
        raise invalid(f"{what} is not an RSA-{_RSA_BITS} key.")
    return RsaPublicArea(raw, attributes, auth_policy, scheme, key)


def verify_ak_attributes(ak: RsaPublicArea) -> None:
    """Require a restricted signing key, which signs only the TPM's own statements."""
    needed = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | RESTRICTED | SIGN
    if ak.attributes & (needed | DECRYPT) != needed or ak.scheme != _ALG_RSASSA:
        raise invalid("AikPub is not a restricted RSASSA signing key of this TPM.")


def verify_wrapping_key_attributes(key: RsaPublicArea) -> None:
    """Require a decryption key of this TPM that only its policy can use.

    Every client's template has 0x20432: without userWithAuth, the PCR policy is the
    only way to use the key.
    """
    wanted = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | NO_DA | DECRYPT
    if key.attributes != wanted:
        raise invalid(f"EncKeyPub has attributes {key.attributes:#x}, not {wanted:#x}.")


def verify_signature(
    key: rsa.RSAPublicKey, signature: bytes, message: bytes, what: str
) -> None:
    """Verify RSASSA-PKCS1-v1_5 with SHA-256, or refuse."""
    try:
        key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature as error:
        raise invalid(f"The signature of {what} is not the AK's.") from error


def _attest_body(message: bytes, attest_type: int, what: str) -> Reader:
    """Read the common part of a TPMS_ATTEST; return the reader for the rest."""
    reader = Reader(message, what)
    reader.expect(4, _MAGIC, "magic")
    reader.expect(2, attest_type, "type")
    reader.sized()  # qualifiedSigner
    reader.sized()  # extraData: empty from C++ and Python, a nonce from Go
    reader.take(_CLOCK_INFO_BYTES)
    reader.take(8)  # firmwareVersion
    return reader


def parse_quote(message: bytes) -> Quote:
    """Parse a TPMS_ATTEST of a quote with one SHA-256 selection."""
    reader = _attest_body(message, _ST_ATTEST_QUOTE, "PcrQuote")
    reader.expect(4, 1, "the number of PCR selections")
    reader.expect(2, _ALG_SHA256, "the PCR bank")
    bits = int.from_bytes(reader.sized(1), "little")
    digest = reader.sized()
    reader.finish()
    selection = tuple(i for i in range(bits.bit_length()) if bits >> i & 1)
    return Quote(selection, digest)


def parse_certified_name(message: bytes) -> bytes:
    """Return the object's name from a TPMS_ATTEST of a certification."""
    reader = _attest_body(message, _ST_ATTEST_CERTIFY, "EncKeyCertifyInfo")
    name = reader.sized()
    reader.sized()  # qualifiedName
    reader.finish()
    return name


def policy_pcr(selection: tuple[int, ...], pcr_digest: bytes) -> bytes:
    """Compute the policy digest of a new session after one TPM2_PolicyPCR."""
    bits = sum(1 << index for index in selection).to_bytes(3, "little")
    tpml_pcr_selection = (
        (1).to_bytes(4, "big") + _ALG_SHA256.to_bytes(2, "big") + b"\x03" + bits
    )
    command = _CC_POLICY_PCR.to_bytes(4, "big")
    return hashlib.sha256(
        bytes(32) + command + tpml_pcr_selection + pcr_digest
    ).digest()
