"""A bundle of trusted roots in PEM: each certificate is loaded by itself.

A system's bundle has more than a hundred certificates. If the library refuses one of
them, such as a root whose BOOLEAN TRUE is encoded as 01 instead of FF (X.690 §11.1),
the other certificates are used. The one certificate is skipped and named by position,
subject and fingerprint, so that a person can find it. A bundle without a certificate
that can be read is an error.

This is for trusted roots only: of a chain that a service sends, every certificate is
needed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar, cast

from skragent.certificates import CertificateError
from skragent.quoting import quote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_BUNDLE_BYTES: Final = 4 * 1024 * 1024  # Debian's has 220 kB
MAX_CERTIFICATES: Final = 4096
MAX_NAMED: Final = 10  # of skipped certificates; the rest is counted

# Both labels are read by OpenSSL and by `cryptography` (RFC 7468 §5.1).
_BEGIN: Final = re.compile(rb"-----BEGIN (?:X509 )?CERTIFICATE-----")
_DASHES: Final = b"-----"
_MAX_SUBJECT_CHARACTERS: Final = 100

_Root = TypeVar("_Root")
# A name in Python's ssl: relative names, each of pairs (kind, value).
_Names = tuple[tuple[tuple[str, str], ...], ...]


@dataclass(frozen=True, slots=True)
class Bundle(Generic[_Root]):
    """The certificates of a bundle that can be read, and those that are skipped."""

    roots: tuple[_Root, ...]
    skipped: tuple[str, ...] = ()  # for people: the certificate and the reason


def load_bundle(pem: bytes, load: Callable[[bytes], _Root]) -> Bundle[_Root]:
    """Load the certificates of a bundle one by one.

    Args:
        pem: the text. Lines outside of its blocks are ignored.
        load: makes a root from DER; raises ValueError or OSError (as ssl.SSLError).

    Raises:
        CertificateError: there are too many certificates, or none can be read.
    """
    blocks = list(_split(pem))
    if len(blocks) > MAX_CERTIFICATES:
        raise CertificateError(f"there are more than {MAX_CERTIFICATES} certificates")
    roots: list[_Root] = []
    skipped: list[str] = []
    for number, der in enumerate(blocks, 1):
        try:
            if der is None:
                raise CertificateError("its block is not PEM")
            roots.append(load(der))
        except (ValueError, OSError) as error:
            name = f"certificate {number} of {len(blocks)}{_describe(der)}"
            skipped.append(f"{name} is skipped: {_reason(error)}")
    if not roots:
        why = f"; {skipped[0]}" if skipped else ""
        raise CertificateError(f"there is no certificate that can be read{why}")
    return Bundle(tuple(roots), _in_short(skipped))


def _split(pem: bytes) -> Iterator[bytes | None]:
    """Yield the DER of each block; None for a block that does not decode."""
    for begin in _BEGIN.finditer(pem):
        end = pem.find(_DASHES, begin.end())
        is_closed = end >= 0 and pem.startswith(b"-----END", end)
        try:
            body = b"".join(pem[begin.end() : end].split()) if is_closed else b""
            yield base64.b64decode(body, validate=True) or None
        except binascii.Error:
            yield None


def _describe(der: bytes | None) -> str:
    """Return the fingerprint and, if OpenSSL reads it, the subject."""
    if der is None:
        return ""
    # In the form of `openssl x509 -fingerprint -sha256`.
    fingerprint = hashlib.sha256(der).digest().hex(":").upper()
    subject = _subject(der)
    return f" ({subject + ', ' if subject else ''}SHA-256 {fingerprint})"


def _subject(der: bytes) -> str:
    """Read the subject with OpenSSL, which reads more certificates; empty if it fails.

    Python's ssl shows the names of CA certificates only.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=der)
        names = cast("_Names", context.get_ca_certs()[0]["subject"])
        pairs = [pair for name in names for pair in name]
        text = ", ".join(f"{kind}={value}" for kind, value in pairs)
    except (OSError, ValueError, LookupError, TypeError):
        return ""
    return quote(text, _MAX_SUBJECT_CHARACTERS)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"OpenSSL cannot read it ({getattr(error, 'reason', '') or error})"
    return str(error)


def _in_short(skipped: list[str]) -> tuple[str, ...]:
    if len(skipped) <= MAX_NAMED:
        return tuple(skipped)
    more = len(skipped) - MAX_NAMED
    return (*skipped[:MAX_NAMED], f"{more} more certificates are skipped")
