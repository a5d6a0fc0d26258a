"""The CA that certifies attestation keys, as Azure's "Global Virtual TPM CA" does.

For secure key release the certificate proves nothing: the runtime data binds an AK to
hardware. The emulator has the CA because clients send the certificate.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID, ObjectIdentifier

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

_ISSUER: Final = "Global Virtual TPM CA - 01"
# An OID for documentation (RFC 5612).
_EXTRA: Final = ObjectIdentifier("1.3.6.1.4.1.32473.1")
_TCG_KP_AIK: Final = ObjectIdentifier("2.23.133.8.3")  # tcg-kp-AIKCertificate
_DAY: Final = timedelta(days=1)
LIFETIME: Final = timedelta(days=365)  # the C++ client renews at 90 days or less


class VirtualTpmCa:
    """A CA; its key outlives the VM's power."""

    def __init__(self, key: rsa.RSAPrivateKey) -> None:
        self._key = key

    @classmethod
    def load_or_mint(cls, path: Path) -> Self:
        """Load the key from `path`; create it (0600) if the file is missing."""
        if path.exists():
            key = serialization.load_pem_private_key(
                path.read_bytes(), None, unsafe_skip_rsa_key_validation=True
            )
            if not isinstance(key, rsa.RSAPrivateKey):
                raise TypeError(f"{path}: not an RSA key")
            return cls(key)
        key = rsa.generate_private_key(65537, 2048)
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        # Atomic: the next start overwrites the file of an interrupted start.
        unfinished = path.with_suffix(".new")
        unfinished.touch(mode=0o600)
        unfinished.write_bytes(pem)
        unfinished.rename(path)
        return cls(key)

    def certify(
        self,
        ak_modulus: int,
        now: datetime,
        lifetime: timedelta = LIFETIME,
        *,
        extra_bytes: int = 0,
    ) -> bytes:
        """Issue an AK's certificate in DER; its lifetime starts yesterday.

        Args:
            ak_modulus: the modulus of the certified key.
            now: an aware time.
            lifetime: the lifetime of the certificate.
            extra_bytes: the length of an additional, meaningless extension.
        """
        public_key = rsa.RSAPublicNumbers(65537, ak_modulus).public_key()
        subject = f"{os.urandom(6).hex()}.TrustedVM.Azure.Microsoft"
        start = (now - _DAY).replace(microsecond=0)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(subject))
            .issuer_name(_name(_ISSUER))
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(start, start + lifetime - _DAY))
            .not_valid_after(start + lifetime)
            .add_extension(
                x509.BasicConstraints(ca=False, path_length=None), critical=True
            )
            .add_extension(_DIGITAL_SIGNATURE, critical=True)
            .add_extension(x509.ExtendedKeyUsage([_TCG_KP_AIK]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(
                    self._key.public_key()
                ),
                critical=False,
            )
        )
        if extra_bytes:
            extra = x509.UnrecognizedExtension(_EXTRA, bytes(extra_bytes))
            builder = builder.add_extension(extra, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.DER)


_DIGITAL_SIGNATURE: Final = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
