"""The emulated web PKI: a root, an intermediate and the services' TLS certificates.

The certificates follow a profile of RFC 5280 that both OpenSSL and the strict verifier
of `cryptography` accept. A vault signs its releases with its TLS certificate.
`ServerIdentity.chain` ends with the root, because the Go client discards the last
certificate of an `x5c` header.

One directory keeps all keys (mode 0600) and certificates.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import ssl
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_CA_DAYS = 3650
_LEAF_DAYS = 397  # CA/Browser Forum Baseline Requirements §6.3.2
_RENEW_BEFORE = dt.timedelta(days=30)
_BACKDATE = dt.timedelta(days=1)

_NO_USAGE = dict.fromkeys(
    (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ),
    False,
)


@dataclass(frozen=True)
class ServerIdentity:
    """A server's key and its chain: leaf, intermediate, root."""

    key: rsa.RSAPrivateKey
    chain: tuple[x509.Certificate, ...]
    pem_path: Path  # leaf, intermediate and key, in the order that `ssl` requires

    @property
    def leaf(self) -> x509.Certificate:
        """The server's own certificate."""
        return self.chain[0]

    @cached_property
    def tls_context(self) -> ssl.SSLContext:
        """A TLS server context with this identity's certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.pem_path)
        return context


def write_private(path: Path, data: bytes) -> None:
    """Write a file atomically, readable only by its owner."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_name(path.name + ".part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    part.replace(path)


def key_pem(key: rsa.RSAPrivateKey) -> bytes:
    """Encode a private key as unencrypted PKCS #8."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def load_or_make_key(path: Path) -> rsa.RSAPrivateKey:
    """Load an RSA-2048 key; create it first if the file is missing."""
    if path.exists():
        key = serialization.load_pem_private_key(path.read_bytes(), None)
        if isinstance(key, rsa.RSAPrivateKey):
            return key
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    write_private(path, key_pem(key))
    return key


def common_name(name: str) -> x509.Name:
    """Build a distinguished name that consists of a common name."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def alternative_names(names: Sequence[str]) -> x509.SubjectAlternativeName:
    """Build the extension from DNS names and IP addresses."""
    general: list[x509.GeneralName] = []
    for name in names:
        try:
            general.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            general.append(x509.DNSName(name))
    return x509.SubjectAlternativeName(general)


class Pki:
    """The certificate authority and the server certificates that it issues."""

    def __init__(self, directory: Path, now: dt.datetime) -> None:
        self._directory = directory
        self._now = now
        self._root_key = load_or_make_key(directory / "root.key")
        self._intermediate_key = load_or_make_key(directory / "intermediate.key")
        self.root = self._ca("root", "skragent emulator root CA", None)
        self.intermediate = self._ca(
            "intermediate", "skragent emulator TLS CA 01", self.root
        )

    @property
    def ca_path(self) -> Path:
        """The root certificate as PEM, which clients must trust."""
        return self._directory / "root.pem"

    def server(self, name: str, names: Sequence[str]) -> ServerIdentity:
        """Load or issue a server's certificate for DNS names and IP addresses."""
        path = self._directory / f"{name}.pem"
        key = load_or_make_key(self._directory / f"{name}.key")
        wanted = alternative_names(names)
        leaf = self._load(path, key)
        if (
            leaf is None
            or _names_of(leaf) != wanted
            or not _is_issued_by(leaf, self.intermediate)
        ):
            leaf = self._issue_leaf(names[0], wanted, key)
            pems = [c.public_bytes(_PEM) for c in (leaf, self.intermediate)]
            write_private(path, b"".join([*pems, key_pem(key)]))
        return ServerIdentity(key, (leaf, self.intermediate, self.root), path)

    def _load(self, path: Path, key: rsa.RSAPrivateKey) -> x509.Certificate | None:
        """Load a certificate that matches the key and is not due for renewal."""
        if not path.exists():
            return None
        cert = x509.load_pem_x509_certificates(path.read_bytes())[0]
        is_current = (
            cert.not_valid_before_utc <= self._now
            and self._now + _RENEW_BEFORE < cert.not_valid_after_utc
        )
        return cert if is_current and cert.public_key() == key.public_key() else None

    def _ca(
        self, name: str, subject: str, issuer: x509.Certificate | None
    ) -> x509.Certificate:
        path = self._directory / f"{name}.pem"
        key = self._root_key if issuer is None else self._intermediate_key
        cert = self._load(path, key)
        if cert is not None and _is_issued_by(cert, issuer or cert):
            return cert
        builder = self._builder(subject, key, issuer, _CA_DAYS)
        usage = _NO_USAGE | {"key_cert_sign": True, "crl_sign": True}
        cert = (
            builder.add_extension(
                x509.BasicConstraints(ca=True, path_length=None if not issuer else 0),
                critical=True,
            )
            .add_extension(x509.KeyUsage(**usage), critical=True)
            .sign(self._root_key, hashes.SHA256())
        )
        path.write_bytes(cert.public_bytes(_PEM))
        return cert

    def _issue_leaf(
        self, subject: str, names: x509.SubjectAlternativeName, key: rsa.RSAPrivateKey
    ) -> x509.Certificate:
        usage = _NO_USAGE | {"digital_signature": True, "key_encipherment": True}
        return (
            self._builder(subject, key, self.intermediate, _LEAF_DAYS)
            .add_extension(
                x509.BasicConstraints(ca=False, path_length=None), critical=True
            )
            .add_extension(x509.KeyUsage(**usage), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage(
                    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
                ),
                critical=False,
            )
            .add_extension(names, critical=False)
            .sign(self._intermediate_key, hashes.SHA256())
        )

    def _builder(
        self,
        subject: str,
        key: rsa.RSAPrivateKey,
        issuer: x509.Certificate | None,
        days: int,
    ) -> x509.CertificateBuilder:
        """Start a certificate builder; without an issuer, it is self-signed."""
        name = common_name(subject)
        issuer_key = issuer.public_key() if issuer else key.public_key()
        assert isinstance(issuer_key, rsa.RSAPublicKey)  # the type of both CA keys
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer.subject if issuer else name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - _BACKDATE)
            .not_valid_after(self._now + dt.timedelta(days=days))
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
                critical=False,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key),
                critical=False,
            )
        )


_PEM = serialization.Encoding.PEM


def _names_of(cert: x509.Certificate) -> x509.SubjectAlternativeName:
    return cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def _is_issued_by(cert: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        cert.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True
