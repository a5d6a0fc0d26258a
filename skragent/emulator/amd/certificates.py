"""AMD's certificate chain: ARK (self-signed), ASK, VCEK.

The fields equal those of the real certificates: names, serial numbers (0 for a VCEK),
RSA-PSS with SHA-384 and a 48-byte salt, and the extensions under 1.3.6.1.4.1.3704.1
that bind a VCEK to one chip at one TCB ("VCEK Certificate and KDS Interface
Specification", from table 8 on).
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from datetime import datetime

    from skragent.emulator.amd.snp_report import Product

_AMD: Final = "1.3.6.1.4.1.3704.1"
_YEAR: Final = timedelta(days=365)
_PSS: Final = padding.PSS(padding.MGF1(hashes.SHA384()), 48)
_RSA_SIGNATURE_BYTES: Final = 512


def mint_ark(product: str, key: rsa.RSAPrivateKey, now: datetime) -> x509.Certificate:
    """Issue the self-signed root."""
    name = _name(f"ARK-{product}")
    builder = _builder(name, name, key.public_key(), 0x10000, now, years=25)
    builder = builder.add_extension(_key_usage(crl=True), critical=True)
    builder = builder.add_extension(
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
    )
    builder = builder.add_extension(
        x509.BasicConstraints(ca=True, path_length=None), critical=True
    )
    return _sign(_with_crl(builder, product), key)


def mint_ask(
    product: str,
    public_key: rsa.RSAPublicKey,
    ark: x509.Certificate,
    ark_key: rsa.RSAPrivateKey,
    now: datetime,
) -> x509.Certificate:
    """Issue the intermediate that signs a product's chips."""
    subject = _name(f"SEV-{product}")
    builder = _builder(subject, ark.subject, public_key, 0x10001, now, years=25)
    builder = builder.add_extension(
        x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False
    )
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(ark_key.public_key()),
        critical=False,
    )
    builder = builder.add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    builder = builder.add_extension(_key_usage(crl=False), critical=True)
    return _sign(_with_crl(builder, product), ark_key)


def mint_vcek(
    product: Product,
    hardware_id: bytes,
    public_key: ec.EllipticCurvePublicKey,
    ask_der: bytes,
    ask_key: rsa.RSAPrivateKey,
    *,
    now: datetime,
) -> bytes:
    """Issue the certificate of one chip at one TCB."""
    issuer = x509.load_der_x509_certificate(ask_der).subject
    builder = _builder(_name("SEV-VCEK"), issuer, public_key, 1, now, years=7)
    for suffix, value in _vcek_extensions(product, hardware_id):
        oid = x509.ObjectIdentifier(f"{_AMD}.{suffix}")
        builder = builder.add_extension(
            x509.UnrecognizedExtension(oid, value), critical=False
        )
    return _with_serial_zero(_sign(builder, ask_key), ask_key)


def _vcek_extensions(product: Product, hardware_id: bytes) -> list[tuple[str, bytes]]:
    """Return OID suffixes and DER values, in the order of real certificates."""
    tcb = product.tcb
    name = product.product_name.encode("ascii")
    fmc = [] if tcb.fmc is None else [("3.9", _integer(tcb.fmc))]
    return [
        ("1", _integer(0)),  # structVersion
        ("2", bytes([0x16, len(name)]) + name),  # productName, IA5String
        ("3.1", _integer(tcb.bootloader)),
        ("3.2", _integer(tcb.tee)),
        *((f"3.{spare}", _integer(0)) for spare in (4, 5, 6, 7)),
        ("3.3", _integer(tcb.snp)),
        ("3.8", _integer(tcb.microcode)),
        *fmc,
        ("4", hardware_id),  # raw bytes, without a DER wrapper
    ]


def _integer(value: int) -> bytes:
    """Encode a DER INTEGER below 2**15; values from 0x80 on take two bytes."""
    content = value.to_bytes(value.bit_length() // 8 + 1)
    return bytes([2, len(content)]) + content


def _with_serial_zero(certificate: x509.Certificate, key: rsa.RSAPrivateKey) -> bytes:
    """Replace the serial number by 0, which the library's builder does not allow.

    The certificate was built with serial number 1. The function sets that byte of the
    DER to 0 and replaces the signature, which is the last 512 bytes.
    """
    der = certificate.public_bytes(serialization.Encoding.DER)
    old = certificate.tbs_certificate_bytes
    start = der.index(old)
    # SEQUENCE header (4), [0] version v3 (5), then the serial: 02 01 01.
    serial = old.index(bytes.fromhex("a003020102020101")) + 7
    new = old[:serial] + b"\0" + old[serial + 1 :]
    signature = key.sign(new, _PSS, hashes.SHA384())
    middle = der[start + len(old) : -_RSA_SIGNATURE_BYTES]
    return der[:start] + new + middle + signature


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey,
    serial: int,
    now: datetime,
    *,
    years: int,
) -> x509.CertificateBuilder:
    start = (now - timedelta(days=1)).replace(microsecond=0)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(serial)
        .not_valid_before(start)
        .not_valid_after(start + years * _YEAR)
    )


def _sign(builder: x509.CertificateBuilder, key: rsa.RSAPrivateKey) -> x509.Certificate:
    return builder.sign(key, hashes.SHA384(), rsa_padding=_PSS)


def _with_crl(
    builder: x509.CertificateBuilder, product: str
) -> x509.CertificateBuilder:
    url = f"https://kdsintf.amd.com/vcek/v1/{product}/crl"
    point = x509.DistributionPoint(
        [x509.UniformResourceIdentifier(url)], None, None, None
    )
    return builder.add_extension(x509.CRLDistributionPoints([point]), critical=False)


def _key_usage(*, crl: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=crl,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "Engineering"),
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
            x509.NameAttribute(NameOID.LOCALITY_NAME, "Santa Clara"),
            x509.NameAttribute(NameOID.STATE_OR_PROVINCE_NAME, "CA"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Advanced Micro Devices"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )
