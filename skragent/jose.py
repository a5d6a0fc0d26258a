"""Unpadded base64url and compact JWS (RFC 7515), as strictly as they can be read.

What this is not: a JOSE library. It knows one serialisation and one algorithm, RS256,
because both the verifier and the vault use that one and nothing else, and a token must
not choose its own algorithm. It is strict where libraries are kind: a second spelling
of the same bytes is refused, so that no bit of a signed text can change unnoticed.

Everything here is pure and total: a value, or `ValueError` with a plain reason, which
the two callers turn into their own error.
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

# Below this a signature proves nothing (NIST SP 800-131A).
MIN_RSA_BITS = 2048


def encode_base64url(data: bytes) -> str:
    """Encode as RFC 7515 §2 does: the URL-safe alphabet, no padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def load_certificate(der: bytes) -> x509.Certificate:
    """Read one certificate of an `x5c` chain.

    Raises:
        CertificateError: the library refuses it, or its serial number is one that
            RFC 5280 §4.1.2.2 forbids, of which the library only warns.
    """
    certificate = load_der(der)
    with reading("the serial number of the certificate"):
        number = certificate.serial_number
    if number <= 0:
        raise CertificateError("the certificate's serial number is not positive")
    return certificate


def decode_base64url(text: str) -> bytes:
    """Decode unpadded base64url that has exactly one spelling.

    Raises:
        ValueError: another alphabet, padding, or bits that do not belong.
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
    # The last character carries bits that decoders drop (RFC 4648 §3.5): a second
    # spelling of the same bytes, and a change that no signature would notice.
    if base64.urlsafe_b64encode(data).rstrip(b"=") != raw:
        raise ValueError("not base64url: bits that do not belong")
    return data


def decode_base64(text: str) -> bytes:
    """Decode padded base64 of the standard alphabet that has exactly one spelling.

    Raises:
        ValueError: anything else.
    """
    try:
        raw = text.encode("ascii")
        data = base64.b64decode(raw, validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise ValueError("not base64") from None
    if base64.b64encode(data) != raw:
        raise ValueError("not base64: bits that do not belong")
    return data


class _Header(msgspec.Struct):
    """The members of a JWS header that decide something; others are ignored."""

    alg: str
    kid: str = ""
    jku: str | None = None
    x5c: list[str] = []
    crit: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True, slots=True)
class CompactJws:
    """A JWS taken apart. Nothing in it is verified yet."""

    kid: str
    jku: str | None
    x5c: tuple[str, ...]
    payload: bytes
    signing_input: bytes
    signature: bytes


def parse_compact_jws(text: str, *, max_chars: int) -> CompactJws:
    """Take a compact JWS apart; the algorithm is RS256 or it is refused.

    Raises:
        ValueError: not a compact JWS, or one that asks for anything else.
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
    """Tell whether this key made the RS256 signature (RFC 7518 §3.3)."""
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
    """Decode JSON into a typed value; members that the type has not are ignored.

    Raises:
        ValueError: not JSON, not UTF-8, too deep, or not of this shape.
    """
    decoder = _decoder_of(kind)
    try:
        return decoder.decode(data)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - msgspec's boundary: whatever it raises
        raise ValueError(f"unexpected JSON: {error}") from None


def _decoder_of(kind: type[_Shape]) -> msgspec.json.Decoder[_Shape]:
    """Give the type's decoder, built once and by one thread.

    msgspec 0.22 looks into a type when it is first used, and dies of SIGSEGV where two
    threads do so at once, as those of a release do.
    """
    with _is_building:
        if kind not in _decoders:
            _decoders[kind] = msgspec.json.Decoder(kind)
        return _decoders[kind]
