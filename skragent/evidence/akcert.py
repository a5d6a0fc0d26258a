"""The AK certificate: whether the NV index holds one already.

It is the statement of an Azure CA, to MAA; nothing of ours hangs on it. Early in a
VM's life the index is empty, or has a placeholder of another issuer. Microsoft's own
client waits for both to pass (TpmCertOperations.cpp of cvm-guest-attestation).
"""

from __future__ import annotations

from cryptography.x509.oid import NameOID

from skragent.errors import EndorsementsError
from skragent.evidence.amdcert import CERTIFICATE_ERRORS, load_certificates

_PLACEHOLDER_ISSUER = "MICROSOFT AZURE TRUSTED VM RSA"
_DER_SEQUENCE = 0x30
_MAX_LENGTH_BYTES = 2


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
        (certificate,) = load_certificates(cut_padding(data))
        names = certificate.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
    except (EndorsementsError, *CERTIFICATE_ERRORS):
        return True
    return not any(_PLACEHOLDER_ISSUER in str(name.value).upper() for name in names)
