"""Keys and certificates for attestation and release, created once per run.

The same name gives the same key for the whole run.
"""

from __future__ import annotations

import base64
import functools
import ipaddress
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def from_b64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def uint(number: int) -> str:
    return b64url(number.to_bytes((number.bit_length() + 7) // 8, "big"))


@functools.cache
def rsa_key(name: str, bits: int = 2048) -> rsa.RSAPrivateKey:
    """The RSA key of that name; the same one for the whole run."""
    del name
    return rsa.generate_private_key(65537, bits)


@functools.cache
def ec_key(name: str, curve: type[ec.EllipticCurve]) -> ec.EllipticCurvePrivateKey:
    del name
    return ec.generate_private_key(curve())


def pkcs8(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def make_certificate(
    common_name: str,
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
    issuer: tuple[str, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey] | None = None,
    *,
    hosts: tuple[str, ...] = (),
    begins: datetime = NOW - DAY,
    ends: datetime = NOW + 30 * DAY,
) -> x509.Certificate:
    """Make a CA's certificate or, with hosts, a server's, as the web PKI wants it."""
    issuer_name, issuer_key = issuer or (common_name, key)
    is_ca = not hosts
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(common_name))
        .issuer_name(_name(issuer_name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(_key_usage(is_ca=is_ca), critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    if hosts:
        names = x509.SubjectAlternativeName([_host_name(host) for host in hosts])
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        builder = builder.add_extension(names, critical=False)
        builder = builder.add_extension(usage, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def x5c(*chain: x509.Certificate) -> list[str]:
    return [b64(cert.public_bytes(serialization.Encoding.DER)) for cert in chain]


@functools.cache
def root_certificate() -> x509.Certificate:
    return make_certificate("Test Root", rsa_key("root"))


@functools.cache
def intermediate_certificate() -> x509.Certificate:
    issuer = ("Test Root", rsa_key("root"))
    return make_certificate("Test Intermediate", rsa_key("intermediate"), issuer)


@functools.cache
def vault_certificate(
    *hosts: str, begins: datetime = NOW - DAY, ends: datetime = NOW + 30 * DAY
) -> x509.Certificate:
    return make_certificate(
        "vault.azure.net",
        rsa_key("vault"),
        ("Test Intermediate", rsa_key("intermediate")),
        hosts=hosts or ("vault.azure.net", "*.vault.azure.net"),
        begins=begins,
        ends=ends,
    )


def vault_chain() -> list[x509.Certificate]:
    return [vault_certificate(), intermediate_certificate(), root_certificate()]
