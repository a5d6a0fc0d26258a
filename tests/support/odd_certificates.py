"""Certificates that `cryptography` rejects or warns about, and bundles of them."""

from __future__ import annotations

import base64

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

_VERSION_3 = b"\xa0\x03\x02\x01\x02"  # RFC 5280 §4.1.2.1


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def pem(data: bytes, label: str = "CERTIFICATE") -> bytes:
    """Write a PEM block around any bytes (RFC 7468)."""
    text = base64.encodebytes(data).decode("ascii")
    return f"-----BEGIN {label}-----\n{text}-----END {label}-----\n".encode("ascii")


def with_boolean_01(certificate: x509.Certificate) -> bytes:
    """Encode the TRUE of every critical extension as 01, which BER allows.

    X.690 §11.1 wants FF in DER. The signature does not hold any more, which does not
    matter for a root: it is trusted as it is.
    """
    odd = der(certificate).replace(b"\x01\x01\xff", b"\x01\x01\x01")
    assert odd != der(certificate)
    return odd


def with_version(certificate: x509.Certificate, number: int) -> bytes:
    """Encode a version number that does not exist."""
    odd = der(certificate).replace(_VERSION_3, _VERSION_3[:-1] + bytes([number]), 1)
    assert odd != der(certificate)
    return odd
