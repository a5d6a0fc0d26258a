"""A small AMD for tests: ARK, ASK, ASVK, VCEK and VLEK with AMD's extensions.

Keys are made once a process; they are RSA-2048 here, as size is not what is tested.
"""

from __future__ import annotations

import functools
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID

from skragent.evidence.amd_certificate import load_certificates
from skragent.evidence.endorsements import Endorsements, order_chain
from skragent.evidence.tcb import Tcb

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MILAN_TCB = Tcb(bootloader=4, tee=0, snp=24, microcode=0xDB)
TURIN_TCB = Tcb(fmc=1, bootloader=2, tee=3, snp=4, microcode=0x80)
CHIP_ID = bytes(range(1, 65))
SHORT_CHIP_ID = bytes(range(1, 9)) + bytes(56)


def parse_pem_chain(data: bytes) -> Endorsements:
    """Parse a PEM file of VCEK (or VLEK), ASK (or ASVK) and ARK, in any order."""
    return order_chain(load_certificates(data))


_PSS = padding.PSS(padding.MGF1(hashes.SHA384()), salt_length=48)
_ARC = "1.3.6.1.4.1.3704.1"


@functools.cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    """The RSA key of that name."""
    del name
    return rsa.generate_private_key(65537, 2048)


@functools.cache
def chip_key() -> ec.EllipticCurvePrivateKey:
    """The key that reports are signed with."""
    return ec.generate_private_key(ec.SECP384R1())


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def mint_certificate(
    subject: str,
    issuer: str,
    *,
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | None = None,
    extensions: tuple[tuple[str, bytes], ...] = (),
    valid_from: datetime = NOW - timedelta(days=1),
    valid_until: datetime = NOW + timedelta(days=365),
    signed_by: str = "",
) -> x509.Certificate:
    """A certificate with serial number 0, as AMD's VCEKs have it.

    The builder refuses 0, so it is put into the part to be signed, which is signed
    here once more.
    """
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key((key or rsa_key(subject)).public_key())
        .serial_number(1)
        .not_valid_before(valid_from)
        .not_valid_after(valid_until)
    )
    for oid, value in extensions:
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
        builder = builder.add_extension(extension, critical=False)
    signer = rsa_key(signed_by or issuer)
    template = builder.sign(signer, hashes.SHA384(), rsa_padding=_PSS)
    version = b"\xa0\x03\x02\x01\x02"
    tbs = template.tbs_certificate_bytes.replace(
        version + b"\x02\x01\x01", version + b"\x02\x01\x00", 1
    )
    der = template.public_bytes(serialization.Encoding.DER)
    start = der.index(template.tbs_certificate_bytes)
    body = der[start:].replace(template.tbs_certificate_bytes, tbs)
    signature = signer.sign(tbs, _PSS, hashes.SHA384())
    whole = der[:start] + body[: -len(signature)] + signature
    return load_certificates(whole)[0]


def _integer(value: int) -> bytes:
    size = value.bit_length() // 8 + 1
    return bytes((2, size)) + value.to_bytes(size, "big")


def amd_extensions(
    tcb: Tcb, *, product: str, hw_id: bytes | None, csp_id: str | None = None
) -> tuple[tuple[str, bytes], ...]:
    """The extensions of a VCEK (with a hw_id) or a VLEK (with a csp_id)."""
    spls = {1: tcb.bootloader, 2: tcb.tee, 3: tcb.snp, 8: tcb.microcode}
    if tcb.fmc is not None:
        spls[9] = tcb.fmc
    found = [
        (f"{_ARC}.1", b"\x02\x01\x00"),
        (f"{_ARC}.2", b"\x16" + bytes((len(product),)) + product.encode()),
    ]
    found += [(f"{_ARC}.3.{number}", _integer(spl)) for number, spl in spls.items()]
    if hw_id is not None:
        found.append((f"{_ARC}.4", hw_id))
    if csp_id is not None:
        found.append((f"{_ARC}.5", b"\x16" + bytes((len(csp_id),)) + csp_id.encode()))
    return tuple(found)


@functools.cache
def mint_chain(
    *,
    tcb: Tcb = MILAN_TCB,
    product: str = "Milan-B0",
    hw_id: bytes | None = CHIP_ID,
    csp_id: str | None = None,
) -> Endorsements:
    """ARK, ASK (or ASVK) and VCEK (or VLEK)."""
    ark = "ARK-Test"
    ask = "SEV-Test" if csp_id is None else "SEV-VLEK-Test"
    signer = mint_certificate(
        "SEV-VCEK" if csp_id is None else "SEV-VLEK",
        ask,
        key=chip_key(),
        extensions=amd_extensions(tcb, product=product, hw_id=hw_id, csp_id=csp_id),
    )
    return order_chain((signer, _authority(ask, ark), _authority(ark, ark)))


@functools.cache
def _authority(subject: str, issuer: str) -> x509.Certificate:
    """One of AMD's own, the same in every chain."""
    return mint_certificate(subject, issuer)


def roots_of(chain: Endorsements) -> frozenset[bytes]:
    """The fingerprint of a chain's root, to trust it."""
    return frozenset({chain.root.fingerprint(hashes.SHA256())})


def thim_answer(chain: Endorsements, tcbm: str = "DB18000000000004") -> dict[str, str]:
    """A chain as IMDS serves it."""
    signer, *others = chain.pem.decode().split("-----BEGIN")[1:]
    return {
        "vcekCert": "-----BEGIN" + signer,
        "tcbm": tcbm,
        "certificateChain": "".join("-----BEGIN" + pem for pem in others),
        "cacheControl": "86400",
    }
