"""The application that the emulated Entra ID knows, and its credentials.

The emulator's directory holds three kinds of credentials: a PEM file with certificate
and private key, a client secret, and a token of a platform that Entra ID trusts
(workload identity federation). Entra ID registers the contents of the first two files;
they stay the same after a restart.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from skragent.emulator.encoding import base64url, dump_json, sign_jws
from skragent.emulator.imds.identities import derive_id
from skragent.emulator.pki import (
    common_name,
    key_pem,
    load_or_make_key,
    write_private,
)
from skragent.errors import EmulatorError

if TYPE_CHECKING:
    from pathlib import Path

EXCHANGE_AUDIENCE = "api://AzureADTokenExchange"
PLATFORM_ISSUER = "https://platform.skragent-emulator.example/"
PLATFORM_SUBJECT = "system:serviceaccount:default:skragent"

_CERTIFICATE_DAYS = 397
_RENEW_BEFORE = dt.timedelta(days=30)
_TOKEN_SECONDS = 30 * 86400  # long, because no platform refreshes the file
_SECRET_BYTES = 30


@dataclass(frozen=True, slots=True)
class Federation:
    """A trusted platform. Entra ID would fetch the keys of the issuer; here `key`."""

    issuer: str
    subject: str
    kid: str
    key: rsa.RSAPublicKey
    audience: str = EXCHANGE_AUDIENCE


@dataclass(frozen=True, slots=True)
class Application:
    """A registered application and its credentials."""

    name: str
    client_id: str
    object_id: str  # of the service principal, which vaults grant permissions to
    secrets: tuple[str, ...] = ()
    certificates: tuple[x509.Certificate, ...] = ()
    federations: tuple[Federation, ...] = ()


@dataclass(frozen=True, slots=True)
class ApplicationFiles:
    """The files with the application's credentials."""

    directory: Path

    @property
    def certificate(self) -> Path:
        """The certificate and its private key, as PEM."""
        return self.directory / "application.pem"

    @property
    def secret(self) -> Path:
        """The client secret."""
        return self.directory / "application-secret"

    @property
    def token(self) -> Path:
        """The platform's token, renewed at every start."""
        return self.directory / "application-token"


def register_application(
    files: ApplicationFiles, state: Path, now: dt.datetime
) -> Application:
    """Register the emulator's application and write its credential files.

    Args:
        files: the files for the user, readable only by their owner.
        state: the directory of the platform's key, which users do not need.
        now: for lifetimes.

    Raises:
        EmulatorError: emulator.application: an existing file has invalid contents.
    """
    platform = load_or_make_key(state / "platform.key")
    public = platform.public_key()
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    kid = base64url(hashlib.sha256(der).digest())
    trusted = Federation(PLATFORM_ISSUER, PLATFORM_SUBJECT, kid, public)
    token = issue_platform_token(trusted, platform, int(now.timestamp()))
    write_private(files.token, token.encode())
    name = "application"
    return Application(
        name,
        client_id=derive_id(name, "client"),
        object_id=derive_id(name, "object"),
        secrets=(_load_or_make_secret(files.secret),),
        certificates=(_load_or_make_certificate(files.certificate, name, now),),
        federations=(trusted,),
    )


def issue_platform_token(trusted: Federation, key: rsa.RSAPrivateKey, now: int) -> str:
    """Issue a token like that of a Kubernetes service account."""
    claims = {
        "iss": trusted.issuer,
        "sub": trusted.subject,
        "aud": [trusted.audience],
        "iat": now,
        "nbf": now,
        "exp": now + _TOKEN_SECONDS,
    }
    return sign_jws({"alg": "RS256", "kid": trusted.kid}, dump_json(claims), key)


def _load_or_make_secret(path: Path) -> str:
    if path.exists():
        secret = path.read_text(errors="replace").strip()
        if secret:
            return secret
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    write_private(path, secret.encode())
    return secret


def _load_or_make_certificate(
    path: Path, name: str, now: dt.datetime
) -> x509.Certificate:
    """Load the certificate; create one with a new key if it is due for renewal."""
    if path.exists():
        try:
            cert = x509.load_pem_x509_certificate(path.read_bytes())
        except ValueError as error:
            raise EmulatorError(
                f"{path} does not contain a certificate",
                code="emulator.application",
                hint="Remove the file; the emulator then creates a new certificate.",
            ) from error
        if cert.not_valid_before_utc <= now < cert.not_valid_after_utc - _RENEW_BEFORE:
            return cert
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    subject = common_name(f"skragent emulator {name}")
    cert = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=_CERTIFICATE_DAYS))
        .sign(key, hashes.SHA256())
    )
    write_private(path, key_pem(key) + cert.public_bytes(Encoding.PEM))
    return cert
