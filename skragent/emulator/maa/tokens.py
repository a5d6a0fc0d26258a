"""Attestation tokens: signing keys with the key set at `/certs`, and encryption.

Like the real set, it has a self-signed certificate for each key and neither `n` nor
`e`. It contains several keys, and one of them signs.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import secrets
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding

from skragent.emulator.encoding import base64std
from skragent.emulator.pki import common_name, load_or_make_key

if TYPE_CHECKING:
    from pathlib import Path

_VALIDITY = dt.timedelta(days=365)
_PUBLISHED = 2
_KEY_BITS = 256
_IV_BYTES = 12
_TAG_BYTES = 16
_ASSOCIATED_DATA = b"Transport Key"


@dataclass(frozen=True)
class SigningKey:
    """A key and its self-signed certificate."""

    key: rsa.RSAPrivateKey
    certificate: x509.Certificate

    @cached_property
    def kid(self) -> str:
        """The key's id: 32 bytes in standard base64, as observed."""
        der = self.certificate.public_bytes(Encoding.DER)
        return base64std(hashlib.sha256(der).digest())

    @cached_property
    def jwk(self) -> dict[str, Any]:
        """The key's entry in `/certs`."""
        der = self.certificate.public_bytes(Encoding.DER)
        return {
            "alg": "RS256",
            "kid": self.kid,
            "kty": "RSA",
            "use": "sig",
            "x5c": [base64std(der)],
        }


class SigningKeys:
    """The published keys; the last one signs."""

    def __init__(self, directory: Path, issuer: str, now: dt.datetime) -> None:
        self._directory = directory
        self._issuer = issuer
        self._now = now
        numbers = sorted(int(p.stem) for p in directory.glob("[0-9]*.key"))
        self._next = (numbers or [1])[-1] + 1
        self._keys = [self._load(n) for n in (numbers or [0, 1])[-_PUBLISHED:]]

    @property
    def current(self) -> SigningKey:
        """The signing key."""
        return self._keys[-1]

    @property
    def jwks(self) -> dict[str, Any]:
        """The document at `/certs`."""
        return {"keys": [key.jwk for key in self._keys]}

    def find(self, kid: object) -> SigningKey | None:
        """Return the published key with an id."""
        return next((key for key in self._keys if key.kid == kid), None)

    def rotate(self, *, keep_old: bool = True) -> None:
        """Sign with a new key from now on; `keep_old` keeps the others published."""
        new = self._load(self._next)
        self._next += 1
        self._keys = [*(self._keys if keep_old else ()), new]

    def _load(self, number: int) -> SigningKey:
        key = load_or_make_key(self._directory / f"{number}.key")
        path = self._directory / f"{number}.{_file_part(self._issuer)}.pem"
        if path.exists():
            cert = x509.load_pem_x509_certificate(path.read_bytes())
            if cert.not_valid_before_utc <= self._now < cert.not_valid_after_utc:
                return SigningKey(key, cert)
        name = common_name(self._issuer)
        cert = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - dt.timedelta(days=1))
            .not_valid_after(self._now + _VALIDITY)
            .add_extension(
                x509.BasicConstraints(ca=True, path_length=None), critical=True
            )
            .sign(key, hashes.SHA256())
        )
        path.write_bytes(cert.public_bytes(Encoding.PEM))
        return SigningKey(key, cert)


def _file_part(issuer: str) -> str:
    return hashlib.sha256(issuer.encode()).hexdigest()[:8]


def seal_token(token: str, wrapping_key: rsa.RSAPublicKey) -> dict[str, Any]:
    """Encrypt a token to its wrapping key, as AzureGuest responses are.

    The token is encrypted with AES-256-GCM under an inner key, and the inner key with
    RSAES-PKCS1-v1_5 to the certified key of the vTPM. The values are in standard base64
    with padding, because the C++ client aborts on other encodings.
    """
    inner_key = AESGCM.generate_key(_KEY_BITS)
    iv = secrets.token_bytes(_IV_BYTES)
    sealed = AESGCM(inner_key).encrypt(iv, token.encode(), _ASSOCIATED_DATA)
    return {
        "Jwt": base64std(sealed[:-_TAG_BYTES]),
        "EncryptedInnerKey": base64std(
            wrapping_key.encrypt(inner_key, padding.PKCS1v15())
        ),
        "EncryptionParams": {
            "BlockMode": "ChainingModeGCM",
            "BlockPadding": "PKCS7",
            "Cipher": "AES",
            "KeySizeInBits": _KEY_BITS,
            "Iv": base64std(iv),
        },
        "AuthenticationData": base64std(sealed[-_TAG_BYTES:]),
    }
