"""The AK certificate: parse it, and accept or reject its successor.

The certificate is a statement of an Azure CA to MAA; skragent does not rely on it. On a
new VM the index is empty or has a placeholder of another issuer. Microsoft's client
waits for the certificate, and has THIM renew a certificate in its last 90 days
(github.com/Azure/confidential-computing-cvm-guest-attestation, TpmCertOperations.cpp).
"""

from __future__ import annotations

import base64
import re
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from skragent.certificates import CertificateError, reading
from skragent.errors import EndorsementsError
from skragent.evidence.amd_certificate import load_certificates, malformed
from skragent.jose import decode_json

if TYPE_CHECKING:
    from datetime import datetime

    from skragent.evidence.tpm_public import RsaPublic

# AK_CERT_RENEWAL_THRESHOLD of TpmCertOperations.cpp.
RENEWED_WITHIN = timedelta(days=90)

# The size of the NV index on new vTPMs.
MAX_AK_CERTIFICATE_BYTES = 4096

# The CA's clock may be ahead of this VM's by this much.
_CLOCK_SKEW = timedelta(minutes=5)

# That client compares the beginning of the name, in capitals. Issuers of certificates
# are others, such as "Global Virtual TPM CA - 01", and must never match.
_PLACEHOLDER_ISSUER = "MICROSOFT AZURE TRUSTED VM RSA"
_DER_SEQUENCE = 0x30
_MAX_LENGTH_BYTES = 2

# The id of a pending renewal, a GUID; it becomes part of a URL.
QUERY_ID = re.compile(r"[0-9A-Za-z-]{1,64}")


class _Renewed(msgspec.Struct):
    """THIM's response to a renewal, api-version 2023-07-01."""

    pem: str = msgspec.field(name="AkCertPem", default="")
    query_id: str = msgspec.field(name="CertQueryId", default="")


def cut_padding(data: bytes) -> bytes:
    """Return the DER value at the beginning, without the padding of the NV index.

    Return `data` itself if it does not begin like DER.
    """
    if len(data) < _MAX_LENGTH_BYTES or data[0] != _DER_SEQUENCE:
        return data
    if not data[1] & 0x80:  # short form: X.690 8.1.3.4
        return data[: 2 + data[1]]
    size = data[1] & 0x7F
    if not 0 < size <= _MAX_LENGTH_BYTES:
        return data
    length = int.from_bytes(data[2 : 2 + size], "big")
    return data[: 2 + size + length]


def is_ak_certificate_provisioned(data: bytes) -> bool:
    """Return whether the index holds a certificate, and not zeros or the placeholder.

    Bytes that do not parse count as a certificate, because the verifier judges them.
    """
    if not data.strip(b"\0\xff"):
        return False
    try:
        with reading("the AK certificate"):
            (certificate,) = load_certificates(cut_padding(data))
            names = certificate.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
    except (EndorsementsError, CertificateError):
        return True
    return not any(str(name.value).startswith(_PLACEHOLDER_ISSUER) for name in names)


def is_for_key(data: bytes, key: RsaPublic) -> bool:
    """Return whether this is a certificate for the key."""
    try:
        with reading("the AK certificate"):
            (certificate,) = load_certificates(cut_padding(data))
            public = certificate.public_key()
    except (EndorsementsError, CertificateError):
        return False
    if not isinstance(public, rsa.RSAPublicKey):
        return False
    numbers = public.public_numbers()
    return (numbers.n, numbers.e) == (key.modulus, key.exponent)


def read_end(data: bytes) -> datetime | None:
    """Return the end of its validity; None if this is not a certificate."""
    try:
        with reading("the AK certificate"):
            (certificate,) = load_certificates(cut_padding(data))
            return certificate.not_valid_after_utc
    except (EndorsementsError, CertificateError):
        return None


def encode_pem(der: bytes) -> bytes:
    """Encode a certificate as text (RFC 7468).

    Raises:
        EndorsementsError: endorsements.malformed
    """
    (certificate,) = load_certificates(der)
    return certificate.public_bytes(serialization.Encoding.PEM)


def decode_pem(text: bytes) -> tuple[bytes, ...]:
    """Return the certificates of a text in DER; none if the text has none."""
    der = serialization.Encoding.DER
    try:
        with reading("the AK certificate's copy"):
            return tuple(c.public_bytes(der) for c in load_certificates(text))
    except (EndorsementsError, CertificateError):
        return ()


def encode_request(data: bytes) -> str:
    """Encode the certificate as THIM expects it: PEM with its base64 on one line."""
    text = base64.b64encode(cut_padding(data)).decode("ascii")
    return f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----"


def parse_renewal_response(body: bytes) -> tuple[bytes, str]:
    """Parse THIM's response to a renewal.

    Returns:
        The certificate's PEM and an empty text, or nothing and the id of a query by
        which a later request fetches the certificate.

    Raises:
        EndorsementsError: endorsements.malformed
    """
    try:
        response = decode_json(body, _Renewed)
    except ValueError as error:
        raise malformed("THIM's response to a renewal does not parse") from error
    if response.pem:
        return response.pem.encode(), ""
    if not QUERY_ID.fullmatch(response.query_id):
        raise malformed("THIM's response to a renewal has no certificate")
    return b"", response.query_id


def parse_successor(pem: bytes, present: bytes, now: datetime) -> bytes:
    """Return a renewed certificate in DER if it may replace the present certificate.

    It must be for the same key, valid now, and valid for longer. A wrong certificate
    would keep this VM from attesting.

    Args:
        pem: the certificate, as THIM returned it.
        present: the certificate that it replaces, DER with padding.
        now: aware.

    Raises:
        EndorsementsError: endorsements.malformed, .ak_certificate
    """
    old = load_certificates(cut_padding(present))[0]
    certificates = load_certificates(pem)
    if len(certificates) != 1:
        raise malformed(f"THIM renewed one certificate as {len(certificates)}")
    new = certificates[0]
    try:
        with reading("THIM's certificate"):
            if new.public_key() != old.public_key():
                raise _unfit("it is for another key")
            if new.not_valid_after_utc <= old.not_valid_after_utc:
                raise _unfit("it does not end later than the present certificate")
            if new.not_valid_before_utc > now + _CLOCK_SKEW:
                raise _unfit("it is not valid yet")
            der = new.public_bytes(serialization.Encoding.DER)
    except CertificateError as error:
        raise malformed(str(error)) from error
    if not is_ak_certificate_provisioned(der):
        raise _unfit("its issuer is the placeholder's")
    if len(der) > MAX_AK_CERTIFICATE_BYTES:
        raise _unfit(f"it has {len(der)} bytes")
    return der


def _unfit(why: str) -> EndorsementsError:
    return EndorsementsError(
        f"THIM's new AK certificate is rejected: {why}",
        code="endorsements.ak_certificate",
    )
