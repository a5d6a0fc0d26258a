"""Check the file of an application's certificate before azure-identity reads it.

The library has one text for most of what can be wrong with it, and may quote the
private key. Pure: bytes in; nothing, or an error that names the trouble, out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from skragent.certificates import (
    CertificateError,
    load_pem_pair,
    load_pfx_pair,
    reading,
)

if TYPE_CHECKING:
    from datetime import datetime

    from cryptography import x509

# A private key with a passphrase begins like this: RFC 7468 §11 and RFC 1421 §4.6.1.1.
# The word alone may also be in a comment.
_ENCRYPTED: Final = (
    b"-----BEGIN ENCRYPTED PRIVATE KEY-----",
    b"Proc-Type: 4,ENCRYPTED",
)
_PEM: Final = b"-----BEGIN "
_PEM_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"
_PEM_KEY: Final = b"PRIVATE KEY-----"
# `data`, the type of content that every PFX file begins with: RFC 7292 §4.
_PKCS7_DATA: Final = bytes.fromhex("06092a864886f70d010701")
_PFX_HEAD_BYTES: Final = 32


def require_identity_certificate(data: bytes) -> x509.Certificate:
    """Require a certificate and its RSA private key, as PEM or PFX, without a password.

    Returns:
        the certificate. Its lifetime is not checked: see `judge_lifetime`.

    Raises:
        CertificateError: the fault; the message never quotes the library.
    """
    key, certificate = _load_pem(data) if _PEM in data else _load_pfx(data)
    if key is None:
        raise CertificateError("there is a certificate, and no private key")
    if certificate is None:
        raise CertificateError("there is a private key, and no certificate")
    if not isinstance(key, rsa.RSAPrivateKey):
        kind = "an EC" if isinstance(key, ec.EllipticCurvePrivateKey) else "not an RSA"
        raise CertificateError(
            f"this is {kind} certificate; only an RSA certificate can be used"
        )
    with reading("the certificate or its private key", quotes_reason=False):
        belongs = _public(key.public_key()) == _public(certificate.public_key())
    if not belongs:
        raise CertificateError("certificate and private key do not belong together")
    return certificate


def judge_lifetime(certificate: x509.Certificate, now: datetime) -> str:
    """Return a warning about a certificate that is not valid now; empty: it is valid.

    Entra ID refuses such a certificate: AADSTS700027.

    Raises:
        CertificateError: its times cannot be read.
    """
    with reading("the validity of the certificate"):
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if end < now:
        return (
            f"the certificate expired on {end:%Y-%m-%d}: put a new one in place, and"
            " register it with the application in Entra ID"
        )
    if now < begin:
        return f"the certificate is not valid before {begin:%Y-%m-%d %H:%M:%S} UTC"
    return ""


def _load_pem(data: bytes) -> tuple[object, x509.Certificate | None]:
    has_certificate = _PEM_CERTIFICATE in data
    if _PEM_KEY not in data:
        if not has_certificate:
            raise CertificateError("there is neither a certificate nor a private key")
        return None, None
    if any(marker in data for marker in _ENCRYPTED):
        raise CertificateError(
            "the private key has a passphrase, which cannot be configured: remove it"
            " with `openssl pkey -in FILE -out NEWFILE`, and append the certificate"
        )
    if not has_certificate:
        return True, None
    return load_pem_pair(data)


def _load_pfx(data: bytes) -> tuple[object, x509.Certificate | None]:
    if _PKCS7_DATA not in data[:_PFX_HEAD_BYTES]:
        raise CertificateError("this is neither PEM nor a PFX file (PKCS #12)")
    try:
        return load_pfx_pair(data)
    except CertificateError:
        raise CertificateError(
            "this is a PFX file with a password, which cannot be configured, or a"
            " damaged one: write it as PEM with"
            " `openssl pkcs12 -in FILE -out NEWFILE -nodes`"
        ) from None


def _public(key: object) -> bytes:
    encoded: bytes = key.public_bytes(  # type: ignore[attr-defined] # of every kind
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    return encoded
