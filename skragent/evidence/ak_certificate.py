"""The AK certificate: whether the NV index holds one already, and for how long.

It is the statement of an Azure CA, to MAA; nothing of ours hangs on it. Early in a
VM's life the index is empty, or has a placeholder of another issuer. Microsoft's own
client waits for both to pass, and has THIM renew what ends within 90 days
(TpmCertOperations.cpp of cvm-guest-attestation).
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

# The NV index that it goes into has 4096 bytes on new vTPMs.
MAX_AK_CERTIFICATE_BYTES = 4096

# How far the CA's clock may be ahead of ours.
_CLOCK_SKEW = timedelta(minutes=5)

# In capitals, and at the beginning of the name, as that client compares it: the real
# ones have other issuers, such as "Global Virtual TPM CA - 01", and must never match.
_PLACEHOLDER_ISSUER = "MICROSOFT AZURE TRUSTED VM RSA"
_DER_SEQUENCE = 0x30
_MAX_LENGTH_BYTES = 2

# Of a renewal that THIM has under way: a GUID, as it goes into a URL.
QUERY_ID = re.compile(r"[0-9A-Za-z-]{1,64}")


class _Renewed(msgspec.Struct):
    """THIM's answer of api-version 2023-07-01."""

    pem: str = msgspec.field(name="AkCertPem", default="")
    query_id: str = msgspec.field(name="CertQueryId", default="")


def cut_padding(data: bytes) -> bytes:
    """Cut a DER value off what follows it: the index is larger than most certificates.

    Gives `data` itself where it does not begin like DER.
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
    """Tell a certificate from an empty index and from the placeholder.

    What does not parse counts as a certificate: it is the verifier's to judge.
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
    """Tell whether it is a certificate for this key."""
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
    """Read until when it is valid; None where it is no certificate."""
    try:
        with reading("the AK certificate"):
            (certificate,) = load_certificates(cut_padding(data))
            return certificate.not_valid_after_utc
    except (EndorsementsError, CertificateError):
        return None


def encode_pem(der: bytes) -> bytes:
    """Write a certificate as text (RFC 7468).

    Raises:
        EndorsementsError: endorsements.malformed
    """
    (certificate,) = load_certificates(der)
    return certificate.public_bytes(serialization.Encoding.PEM)


def decode_pem(text: bytes) -> tuple[bytes, ...]:
    """Read certificates from text, in DER; none where it has no certificates."""
    der = serialization.Encoding.DER
    try:
        with reading("the AK certificate's copy"):
            return tuple(c.public_bytes(der) for c in load_certificates(text))
    except (EndorsementsError, CertificateError):
        return ()


def encode_request(data: bytes) -> str:
    """Write the certificate as THIM takes it: PEM, without a break in its base64."""
    text = base64.b64encode(cut_padding(data)).decode("ascii")
    return f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----"


def parse_answer(body: bytes) -> tuple[bytes, str]:
    """Read THIM's answer to a renewal: the certificate's PEM, and the query's GUID.

    Either may be empty: then it is not made yet, or there is nothing to ask for.

    Raises:
        EndorsementsError: endorsements.malformed
    """
    try:
        answer = decode_json(body, _Renewed)
    except ValueError as error:
        raise malformed("THIM's answer to a renewal does not parse") from error
    if answer.pem:
        return answer.pem.encode(), ""
    if not QUERY_ID.fullmatch(answer.query_id):
        raise malformed("THIM's answer to a renewal has no certificate")
    return b"", answer.query_id


def parse_successor(pem: bytes, present: bytes, now: datetime) -> bytes:
    """Read a renewed certificate; gives its DER.

    Whatever takes the present one's place must be at least as good: for the same key,
    valid by now, and for longer. A wrong one would keep this VM from attesting for
    good.

    Args:
        pem: the certificate, as THIM gave it.
        present: the one that it is to replace.
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
                raise _unfit("it ends no later than the present one")
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
        f"THIM's new AK certificate is not taken: {why}",
        code="endorsements.ak_certificate",
    )
