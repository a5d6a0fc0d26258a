"""Applications of Microsoft Entra ID: what it keeps of each to know it again.

An emulator has one from the start. What proves to be it lies in the emulator's
directory, in the three shapes that clients take: a PEM file with certificate and
private key, a secret, and a token of a platform that Entra trusts (workload identity
federation). What is in the first two files is what is registered; a restart keeps them.
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
_TOKEN_SECONDS = 30 * 86400  # nobody refreshes the file while the emulator runs
_SECRET_BYTES = 30


@dataclass(frozen=True, slots=True)
class Federation:
    """Whose tokens stand for an application. Entra would fetch the issuer's keys."""

    issuer: str
    subject: str
    kid: str
    key: rsa.RSAPublicKey
    audience: str = EXCHANGE_AUDIENCE


@dataclass(frozen=True, slots=True)
class Application:
    """One registered application and all that proves to be it."""

    name: str
    client_id: str
    object_id: str  # of its service principal: what vaults grant permissions to
    secrets: tuple[str, ...] = ()
    certificates: tuple[x509.Certificate, ...] = ()
    federations: tuple[Federation, ...] = ()


@dataclass(frozen=True, slots=True)
class ApplicationFiles:
    """Where a user finds what an application proves itself with."""

    directory: Path

    @property
    def certificate(self) -> Path:
        """The certificate and its private key, as PEM."""
        return self.directory / "application.pem"

    @property
    def secret(self) -> Path:
        """The client secret alone."""
        return self.directory / "application-secret"

    @property
    def token(self) -> Path:
        """The platform's token; new at every start."""
        return self.directory / "application-token"


def register_application(
    files: ApplicationFiles, state: Path, now: dt.datetime
) -> Application:
    """Make the application that an emulator has, and write its files.

    Args:
        files: for the user, readable for the owner alone.
        state: where the key of the platform lies, which no user needs.
        now: for lifetimes.

    Raises:
        EmulatorError: emulator.application: a file is there and is not what it should.
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
    """Issue a token as Kubernetes does to a service account."""
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
    """Load a certificate that is still good, or make one with a new key."""
    if path.exists():
        try:
            cert = x509.load_pem_x509_certificate(path.read_bytes())
        except ValueError as error:
            raise EmulatorError(
                f"{path} holds no certificate",
                code="emulator.application",
                hint="Remove it, and the emulator makes another one.",
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
