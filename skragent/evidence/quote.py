"""Statements signed by the AK: quotes over PCRs, certification of the wrapping key.

TPM 2.0 part 2: TPMS_ATTEST (10.12.12), TPMS_QUOTE_INFO and TPMS_CERTIFY_INFO.
Part 3: TPM2_PolicyPCR (23.7).

`tpm` runs the commands, and `model` verifies that the hardware report names the AK.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from skragent.certificates import CertificateError, reading
from skragent.errors import BindingError, MalformedEvidenceError
from skragent.evidence.byte_reader import Reader
from skragent.evidence.tpm_public import TPM_ALG_SHA256, RsaPublic, TpmPublic

if TYPE_CHECKING:
    from collections.abc import Sequence

QUOTED_PCRS = range(8)  # MAA refuses a quote over more PCRs: docs/protocols/vtpm.md

TPM_GENERATED_VALUE = 0xFF544347
TPM_ST_ATTEST_CERTIFY = 0x8017
TPM_ST_ATTEST_QUOTE = 0x8018
TPM_CC_POLICY_PCR = 0x0000017F

_CLOCK_INFO_BYTES = 17  # clock, resetCount, restartCount, safe
_MAX_SELECTION_BYTES = 4  # of a TPMS_PCR_SELECTION: 32 PCRs


@dataclass(frozen=True, slots=True)
class SignedAttest:
    """A TPMS_ATTEST and the AK's signature over it."""

    message: bytes  # TPMS_ATTEST without a size
    signature: bytes  # raw RSASSA, 256 bytes for the AK


@dataclass(frozen=True, slots=True)
class Quote:
    """TPMS_ATTEST of type QUOTE, over one bank."""

    qualifying_data: bytes
    hash_algorithm: int
    indices: tuple[int, ...]
    pcr_digest: bytes


@dataclass(frozen=True, slots=True)
class Certification:
    """TPMS_ATTEST of type CERTIFY."""

    qualifying_data: bytes
    name: bytes  # of the certified object


def parse_quote(message: bytes) -> Quote:
    """Parse a TPMS_ATTEST that must be a quote over one bank.

    Raises:
        MalformedEvidenceError: this is not such a quote.
    """
    reader = Reader(message, "the quote")
    qualifying_data = _read_attest_header(reader, TPM_ST_ATTEST_QUOTE, "quote")
    if reader.number(4) != 1:
        raise MalformedEvidenceError("the quote is not over exactly one PCR bank")
    hash_algorithm = reader.number(2)
    size = reader.number(1)
    if size > _MAX_SELECTION_BYTES:
        raise MalformedEvidenceError(f"the quote has a PCR selection of {size} bytes")
    bits = int.from_bytes(reader.take(size), "little")
    pcr_digest = reader.sized()
    reader.end()
    indices = tuple(i for i in range(size * 8) if bits >> i & 1)
    return Quote(qualifying_data, hash_algorithm, indices, pcr_digest)


def parse_certification(message: bytes) -> Certification:
    """Parse a TPMS_ATTEST that must be a certification.

    Raises:
        MalformedEvidenceError: this is not a certification.
    """
    reader = Reader(message, "the certification")
    kind = TPM_ST_ATTEST_CERTIFY
    qualifying_data = _read_attest_header(reader, kind, "certification")
    certification = Certification(qualifying_data, reader.sized())
    reader.sized()  # qualifiedName
    reader.end()
    return certification


def _read_attest_header(reader: Reader, kind: int, what: str) -> bytes:
    """Read the common head of every TPMS_ATTEST; return its extraData."""
    if reader.number(4) != TPM_GENERATED_VALUE or reader.number(2) != kind:
        raise MalformedEvidenceError(f"this is not a {what} made by a TPM")
    reader.sized()  # qualifiedSigner: the AK is identified by its key
    qualifying_data = reader.sized()
    reader.take(_CLOCK_INFO_BYTES)
    reader.take(8)  # firmwareVersion
    return qualifying_data


def compute_policy_pcr(pcrs: Sequence[bytes]) -> bytes:
    """Return the authPolicy that SHA-256 PCRs 0 to 7 must have these values.

    policyDigest = H(0…0 || TPM_CC_PolicyPCR || pcrs || pcrDigest). Computing it here
    saves the round trips of a trial session.
    """
    selection = (
        (1).to_bytes(4, "big")  # one bank
        + TPM_ALG_SHA256.to_bytes(2, "big")
        + b"\x03\xff\x00\x00"  # three bytes of bits: 0 to 7
    )
    return hashlib.sha256(
        bytes(hashlib.sha256().digest_size)
        + TPM_CC_POLICY_PCR.to_bytes(4, "big")
        + selection
        + hashlib.sha256(b"".join(pcrs)).digest()
    ).digest()


def verify_quote(
    quote: SignedAttest,
    ak: RsaPublic,
    pcrs: Sequence[bytes],
    *,
    qualifying_data: bytes = b"",
    indices: Sequence[int] = QUOTED_PCRS,
) -> None:
    """Verify that the AK quoted exactly these SHA-256 PCRs with these values.

    Raises:
        BindingError: evidence.quote, or evidence.signature
        MalformedEvidenceError: this is not a quote.
    """
    _verify_signature(quote, ak, "the quote")
    parsed = parse_quote(quote.message)
    expected = hashlib.sha256(b"".join(pcrs)).digest()
    if parsed.hash_algorithm != TPM_ALG_SHA256 or parsed.indices != tuple(indices):
        raise BindingError("the quote is over other PCRs", code="evidence.quote")
    if not hmac.compare_digest(parsed.pcr_digest, expected):
        raise BindingError("the PCRs are not those of the quote", code="evidence.quote")
    if not hmac.compare_digest(parsed.qualifying_data, qualifying_data):
        raise BindingError(
            "the quote's qualifying data is not the requested one",
            code="evidence.quote",
        )


def verify_certification(
    certification: SignedAttest, ak: RsaPublic, key: TpmPublic
) -> None:
    """Verify that the AK certified this key as living in its own TPM.

    Raises:
        BindingError: evidence.quote, or evidence.signature
        MalformedEvidenceError: this is not a certification.
    """
    _verify_signature(certification, ak, "the certification")
    if not hmac.compare_digest(
        parse_certification(certification.message).name, key.name
    ):
        raise BindingError("another key was certified", code="evidence.quote")


def _verify_signature(signed: SignedAttest, ak: RsaPublic, what: str) -> None:
    """Verify RSASSA-PKCS1-v1_5 with SHA-256, the AK's own scheme."""
    try:
        with reading("the AK"):
            public_key = rsa.RSAPublicNumbers(ak.exponent, ak.modulus).public_key()
            public_key.verify(
                signed.signature, signed.message, padding.PKCS1v15(), hashes.SHA256()
            )
    except CertificateError as error:  # also if the numbers are not an RSA key
        raise BindingError(
            f"the AK's signature over {what} does not hold", code="evidence.signature"
        ) from error
