"""Strict parsers of unpadded base64url and compact JWS (RFC 7515), and of JSON.

Only one serialisation and one algorithm are supported, RS256: MAA and the vaults use no
other, and a token must not choose its own algorithm. A second spelling of the same
bytes is rejected, so that no bit of a signed text can change unnoticed.

Pure. Each function returns a value or raises `ValueError` with a reason, which the
callers turn into their own error.
"""

from __future__ import annotations

import base64
import binascii
import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from skragent.certificates import CertificateError, load_der, reading

if TYPE_CHECKING:
    from cryptography import x509

_Shape = TypeVar("_Shape")

_decoders: Final[dict[type[Any], msgspec.json.Decoder[Any]]] = {}
_is_building: Final = threading.Lock()

_BASE64URL = re.compile(rb"[A-Za-z0-9_-]*")

# Shorter keys are not secure (NIST SP 800-131A).
MIN_RSA_BITS = 2048


def encode_base64url(data: bytes) -> str:
    """Encode with the URL-safe alphabet and without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def load_certificate(der: bytes) -> x509.Certificate:
    """Load one certificate of an `x5c` chain.

    Raises:
        CertificateError: the library rejects it, or RFC 5280 §4.1.2.2 forbids its
            serial number, for which the library only warns.
    """
    certificate = load_der(der)
    with reading("the serial number of the certificate"):
        number = certificate.serial_number
    if number <= 0:
        raise CertificateError("the certificate's serial number is not positive")
    return certificate


def decode_base64url(text: str) -> bytes:
    """Decode unpadded base64url; only one spelling is accepted.

    Raises:
        ValueError: another alphabet, padding, or unused bits that are set.
    """
    try:
        raw = text.encode("ascii")
    except UnicodeEncodeError:
        raise ValueError("not base64url: not ASCII") from None
    if not _BASE64URL.fullmatch(raw):
        raise ValueError("not base64url: another alphabet, or padding")
    try:
        data = base64.urlsafe_b64decode(raw + b"=" * (-len(raw) % 4))
    except binascii.Error:
        raise ValueError("not base64url: impossible length") from None
    # The last character has bits that decoders ignore (RFC 4648 §3.5). They would
    # allow a second spelling, a change that no signature covers.
    if base64.urlsafe_b64encode(data).rstrip(b"=") != raw:
        raise ValueError("not base64url: unused bits are set")
    return data


def decode_base64(text: str) -> bytes:
    """Decode padded base64 of the standard alphabet; only one spelling is accepted.

    Raises:
        ValueError: the text is not such base64.
    """
    try:
        raw = text.encode("ascii")
        data = base64.b64decode(raw, validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise ValueError("not base64") from None
    if base64.b64encode(data) != raw:
        raise ValueError("not base64: unused bits are set")
    return data


class _Header(msgspec.Struct):
    """The used members of a JWS header; others are ignored."""

    alg: str
    kid: str = ""
    jku: str | None = None
    x5c: list[str] = []
    crit: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True, slots=True)
class CompactJws:
    """The parts of a JWS, not verified yet."""

    kid: str
    jku: str | None
    x5c: tuple[str, ...]
    payload: bytes
    signing_input: bytes
    signature: bytes


def parse_compact_jws(text: str, *, max_chars: int) -> CompactJws:
    """Split a compact JWS, whose algorithm must be RS256.

    Raises:
        ValueError: not a compact JWS, another algorithm, or critical extensions.
    """
    if len(text) > max_chars:
        raise ValueError(f"longer than {max_chars} characters")
    parts = text.split(".")
    if len(parts) != 3:  # noqa: PLR2004 - RFC 7515 §7.1: header, payload, signature
        raise ValueError("not three parts")
    header_bytes, payload, signature = (decode_base64url(part) for part in parts)
    header = decode_json(header_bytes, _Header)
    if header.alg != "RS256":
        raise ValueError("its algorithm is not RS256")
    if header.crit is not msgspec.UNSET:
        raise ValueError("it has critical extensions")
    return CompactJws(
        kid=header.kid,
        jku=header.jku,
        x5c=tuple(header.x5c),
        payload=payload,
        signing_input=f"{parts[0]}.{parts[1]}".encode("ascii"),
        signature=signature,
    )


def is_signed_by(jws: CompactJws, key: rsa.RSAPublicKey) -> bool:
    """Return whether this key made the RS256 signature (RFC 7518 §3.3)."""
    if key.key_size < MIN_RSA_BITS:
        return False
    try:
        with reading("the signature"):
            key.verify(
                jws.signature, jws.signing_input, padding.PKCS1v15(), hashes.SHA256()
            )
    except CertificateError:
        return False
    return True


def decode_json(data: bytes, kind: type[_Shape]) -> _Shape:
    """Decode JSON into a typed value; members that the type lacks are ignored.

    Raises:
        ValueError: not JSON, not UTF-8, too deep, or not of this shape.
    """
    decoder = _decoder_of(kind)
    try:
        return decoder.decode(data)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - the boundary to msgspec
        raise ValueError(f"unexpected JSON: {error}") from None


def _decoder_of(kind: type[_Shape]) -> msgspec.json.Decoder[_Shape]:
    """Return the type's decoder, which is built once and by one thread.

    msgspec 0.22 examines a type at its first use, and fails with SIGSEGV if two threads
    do so at once, as the threads of a job would.
    """
    with _is_building:
        if kind not in _decoders:
            _decoders[kind] = msgspec.json.Decoder(kind)
        return _decoders[kind]
