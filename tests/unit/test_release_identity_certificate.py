"""Faults of the file of an application's certificate, each named."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)
from support.release_pki import NOW

from skragent.certificates import CertificateError
from skragent.release.identity_certificate import (
    judge_lifetime,
    require_identity_certificate,
)

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

RSA = rsa.generate_private_key(65537, 2048)
OTHER_RSA = rsa.generate_private_key(65537, 2048)
PASSPHRASE = BestAvailableEncryption(b"passphrase")


def certificate(key: Key = RSA) -> x509.Certificate:
    name = x509.Name.from_rfc4514_string("CN=application")
    is_ed25519 = isinstance(key, ed25519.Ed25519PrivateKey)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=1))
        .sign(key, None if is_ed25519 else SHA256())
    )


def cert_pem(key: Key = RSA) -> bytes:
    return certificate(key).public_bytes(Encoding.PEM)


def key_pem(
    key: Key = RSA,
    encryption: KeySerializationEncryption = NoEncryption(),  # noqa: B008 - no state
    form: PrivateFormat = PrivateFormat.PKCS8,
) -> bytes:
    return key.private_bytes(Encoding.PEM, form, encryption)


def pfx(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | None = RSA,
    encryption: KeySerializationEncryption = NoEncryption(),  # noqa: B008 - no state
) -> bytes:
    own = certificate(key or RSA)
    return pkcs12.serialize_key_and_certificates(b"x", key, own, None, encryption)


EC = ec.generate_private_key(ec.SECP256R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()


@pytest.mark.parametrize(
    "data",
    [
        key_pem() + cert_pem(),
        cert_pem() + key_pem(),
        cert_pem() + key_pem(form=PrivateFormat.TraditionalOpenSSL),
        b"Bag Attributes\n" + cert_pem() + cert_pem(OTHER_RSA) + key_pem(),
        b"# the backup of this key is ENCRYPTED\n" + cert_pem() + key_pem(),
        pfx(),
    ],
)
def test_a_certificate_with_its_rsa_key_is_used(data: bytes) -> None:
    require_identity_certificate(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (key_pem(EC) + cert_pem(EC), "this is an EC certificate; only an RSA"),
        (pfx(EC), "this is an EC certificate; only an RSA"),
        (key_pem(ED25519) + cert_pem(ED25519), "this is not an RSA certificate"),
        (cert_pem(), "there is a certificate, and no private key"),
        (pfx(None), "there is a certificate, and no private key"),
        (key_pem(), "there is a private key, and no certificate"),
        (key_pem(RSA, PASSPHRASE) + cert_pem(), "the private key has a passphrase"),
        (
            key_pem(RSA, PASSPHRASE, PrivateFormat.TraditionalOpenSSL) + cert_pem(),
            "the private key has a passphrase",
        ),
        (pfx(RSA, PASSPHRASE), "this is a PFX file with a password"),
        (pfx()[:-300], "this is a PFX file with a password"),
        (key_pem(OTHER_RSA) + cert_pem(), "do not belong together"),
        (b"-----BEGIN PUBLIC KEY-----\n", "neither a certificate nor a private key"),
        (b"", "neither PEM nor a PFX file"),
        (b"the secret", "neither PEM nor a PFX file"),
        (certificate().public_bytes(Encoding.DER), "neither PEM nor a PFX file"),
    ],
)
def test_each_fault_is_named(data: bytes, words: str) -> None:
    with pytest.raises(CertificateError) as caught:
        require_identity_certificate(data)
    assert words in str(caught.value)


def test_a_damaged_private_key_is_not_quoted() -> None:
    damaged = key_pem().replace(b"MII", b"!!!", 1)
    with pytest.raises(CertificateError) as caught:
        require_identity_certificate(damaged + cert_pem())
    assert str(caught.value) == "the certificate or its private key cannot be read"


@pytest.mark.parametrize(
    ("days", "words"),
    [
        (0, ""),
        (2, f"the certificate expired on {NOW + timedelta(days=1):%Y-%m-%d}"),
        (-2, f"the certificate is not valid before {NOW - timedelta(days=1):%Y-%m-%d}"),
    ],
)
def test_a_certificate_that_is_not_valid_now_has_a_warning(
    days: int, words: str
) -> None:
    judged = require_identity_certificate(cert_pem() + key_pem())
    warning = judge_lifetime(judged, NOW + timedelta(days=days))
    assert bool(warning) == bool(words)
    assert warning.startswith(words)


@pytest.mark.parametrize("data", [key_pem(RSA, PASSPHRASE) + cert_pem(), pfx()[:-9]])
def test_a_passphrase_has_a_command_that_removes_it(data: bytes) -> None:
    with pytest.raises(CertificateError, match="`openssl pk"):
        require_identity_certificate(data)
