"""A confidential VM in plain software: valid evidence for the emulated verifier.

Built with `cryptography` and `struct` from the layouts of AMD and the TCG alone, as the
guest's libraries would send it, so that a test can break exactly one thing of it.
"""

from __future__ import annotations

import base64
import copy
import datetime as dt
import functools
import hashlib
import json
import struct
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

Json: TypeAlias = Any  # what json.loads gives, or takes
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
VM_ID = "D3FD4B09-37A3-40D5-8F2A-EA80762213CC"
_PSS = padding.PSS(padding.MGF1(hashes.SHA384()), 48)
_TCB = {"3.1": 3, "3.2": 0, "3.3": 8, "3.8": 219}  # 219 takes two DER bytes
_CHIP = bytes(range(64))


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def b64u(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64u(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@functools.cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    """Return the key of a name."""
    del name
    return rsa.generate_private_key(65537, 2048)


def ak_certificate(subject: str, ak: str = "ak") -> x509.Certificate:
    """Certify an AK, by itself."""
    return _cert(subject, subject, rsa_key(ak)).sign(rsa_key(ak), hashes.SHA256())


@functools.cache
def vcek_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def _cert(subject: str, issuer: str, key: PrivateKey) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(NOW - dt.timedelta(days=1000))
        .not_valid_after(NOW + dt.timedelta(days=36500))
    )


def _pem(builder: x509.CertificateBuilder, signer: rsa.RSAPrivateKey) -> str:
    cert = builder.sign(signer, hashes.SHA384(), rsa_padding=_PSS)
    return cert.public_bytes(Encoding.PEM).decode()


def vcek_pem(tcb: dict[str, int] = _TCB, chip: bytes = _CHIP) -> str:
    """Mint a VCEK certificate with AMD's extensions."""
    builder = _cert("SEV-VCEK", "SEV-Milan", vcek_key())
    extensions = {"2": b"\x16\x08Milan-B0", "4": chip}
    for oid, value in tcb.items():
        content = value.to_bytes(value.bit_length() // 8 + 1, "big")
        extensions[oid] = b"\x02" + bytes([len(content)]) + content
    for oid, der in extensions.items():
        extension = x509.UnrecognizedExtension(
            x509.ObjectIdentifier(f"1.3.6.1.4.1.3704.1.{oid}"), der
        )
        builder = builder.add_extension(extension, critical=False)
    return _pem(builder, rsa_key("ask"))


@functools.cache
def ark_pem() -> str:
    key = rsa_key("ark")
    return _pem(_cert("ARK-Milan", "ARK-Milan", key), key)


@functools.cache
def ask_pem() -> str:
    return _pem(_cert("SEV-Milan", "ARK-Milan", rsa_key("ask")), rsa_key("ark"))


def ca_certificate(name: str, key: str) -> bytes:
    """Mint a self-signed certificate (DER) of a named key."""
    cert = _cert(name, name, rsa_key(key)).sign(rsa_key(key), hashes.SHA256())
    return cert.public_bytes(Encoding.DER)


def tpm2b(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def rsa_public_area(
    key: rsa.RSAPrivateKey, attributes: int, policy: bytes, scheme: bytes
) -> bytes:
    """Write a TPMT_PUBLIC."""
    modulus = key.public_key().public_numbers().n.to_bytes(256, "big")
    head = struct.pack(">HHI", 0x0001, 0x000B, attributes) + tpm2b(policy)
    return head + b"\0\x10" + scheme + struct.pack(">HI", 2048, 0) + tpm2b(modulus)


def attest(kind: int, body: bytes) -> bytes:
    """Write a TPMS_ATTEST with an empty qualifyingData."""
    signer = b"\0\x0b" + bytes(32)
    clock = struct.pack(">QIIB", 1, 2, 3, 1) + bytes(8)
    return (
        struct.pack(">IH", 0xFF544347, kind)
        + tpm2b(signer)
        + tpm2b(b"")
        + (clock + body)
    )


def event_log(secure_boot: bytes = b"\x01") -> tuple[bytes, dict[int, bytes]]:
    """Write a small log; give it with the PCRs that it leads to."""
    spec = b"Spec ID Event03\0" + struct.pack("<IBBBB", 0, 0, 2, 105, 2)
    spec += struct.pack("<IHHB", 1, 0x000B, 32, 0)
    log = struct.pack("<II20sI", 0, 3, bytes(20), len(spec)) + spec
    name = "SecureBoot".encode("utf-16-le")
    variable = bytes(16) + struct.pack("<QQ", len(name) // 2, len(secure_boot))
    variable += name + secure_boot
    pcrs = dict.fromkeys(range(8), bytes(32))
    for pcr, kind, data in [
        (0, 0x80000008, b"firmware"),
        (7, 0x80000001, variable),
        (4, 0x80000003, b"boot loader"),
    ]:
        digest = hashlib.sha256(data).digest()
        log += struct.pack("<IIIH32sI", pcr, kind, 1, 0x000B, digest, len(data)) + data
        pcrs[pcr] = hashlib.sha256(pcrs[pcr] + digest).digest()
    return log, pcrs


@dataclass
class SoftwareVm:
    """Everything that evidence is made of; change a member, then ask for a request."""

    vcek: str = field(default_factory=vcek_pem)
    tcg_log: bytes = field(default_factory=lambda: event_log()[0])
    pcrs: dict[int, bytes] = field(default_factory=lambda: event_log()[1])
    report_fields: dict[int, bytes] = field(default_factory=dict)
    runtime: dict[str, Any] = field(default_factory=dict)
    ak: str = "ak"
    wrapping: str = "wrapping"
    ak_attributes: int = 0x50472
    wrapping_attributes: int = 0x20432
    selection: tuple[int, ...] = tuple(range(8))

    vm_id = VM_ID

    def __post_init__(self) -> None:
        ak = rsa_key(self.ak).public_key().public_numbers()
        self.runtime = {
            "keys": [
                {
                    "kid": "HCLAkPub",
                    "key_ops": ["sign"],
                    "kty": "RSA",
                    "e": "AQAB",
                    "n": b64u(ak.n.to_bytes(256, "big")),
                }
            ],
            "vm-configuration": {
                "console-enabled": True,
                "secure-boot": True,
                "tpm-enabled": True,
                "vmUniqueId": VM_ID,
            },
            "user-data": "0" * 128,
        }

    @property
    def ark_pem(self) -> str:
        return ark_pem()

    def thim_certification(self) -> dict[str, str]:
        return {
            "vcekCert": self.vcek,
            "tcbm": "db08000000000003",
            "certificateChain": ask_pem() + ark_pem(),
            "cacheControl": "86400",
        }

    def renew_ak_certificate(
        self, certificate: x509.Certificate
    ) -> x509.Certificate | None:
        """Certify `renewed` for the AK; None where that certificate is another's."""
        if certificate.public_key() != rsa_key(self.ak).public_key():
            return None
        return ak_certificate("renewed", self.ak)

    def report(self, bound: bytes) -> bytes:
        """Write and sign an ATTESTATION_REPORT that binds runtime data."""
        data = bytearray(0x4A0)
        fields = {
            0x000: struct.pack("<II", 3, 2),
            0x008: struct.pack("<Q", 0x3001F),
            0x010: b"\x01" + bytes(15),
            0x020: b"\x02" + bytes(15),
            0x034: struct.pack("<I", 1),
            0x050: hashlib.sha256(bound).digest(),
            0x180: bytes([3, 0, 0, 0, 0, 0, 8, 219]),
            0x188: bytes([0x19, 0x01, 0x01]),
            0x1A0: _CHIP,
        }
        for offset, value in (fields | self.report_fields).items():
            data[offset : offset + len(value)] = value
        signature = vcek_key().sign(bytes(data[:0x2A0]), ec.ECDSA(hashes.SHA384()))
        r, s = decode_dss_signature(signature)
        data[0x2A0:0x2E8] = r.to_bytes(72, "little")
        data[0x2E8:0x330] = s.to_bytes(72, "little")
        return bytes(data)

    @property
    def runtime_data(self) -> bytes:
        return json.dumps(self.runtime, separators=(",", ":")).encode()

    @property
    def chain(self) -> bytes:
        return (self.vcek + ask_pem() + ark_pem()).encode()

    @property
    def pcr_digest(self) -> bytes:
        return hashlib.sha256(b"".join(self.pcrs.values())).digest()

    @property
    def tpml(self) -> bytes:
        bits = sum(1 << i for i in self.selection).to_bytes(3, "little")
        return struct.pack(">IHB", 1, 0x000B, 3) + bits

    def sign(self, message: bytes) -> bytes:
        return rsa_key(self.ak).sign(message, padding.PKCS1v15(), hashes.SHA256())

    def wrapping_public(self) -> bytes:
        policy = hashlib.sha256(
            bytes(32) + struct.pack(">I", 0x17F) + self.tpml + self.pcr_digest
        ).digest()
        return rsa_public_area(
            rsa_key(self.wrapping), self.wrapping_attributes, policy, b"\0\x10"
        )

    def tpm_info(self) -> dict[str, Any]:
        """Write TpmInfo; all values are bytes, PCR values too."""
        ak = rsa_public_area(rsa_key(self.ak), self.ak_attributes, b"", b"\0\x14\0\x0b")
        public = self.wrapping_public()
        name = b"\0\x0b" + hashlib.sha256(public).digest()
        quote = attest(0x8018, self.tpml + tpm2b(self.pcr_digest))
        certify = attest(0x8017, tpm2b(name) + tpm2b(name))
        cert = _cert("vm.TrustedVM", "vTPM CA", rsa_key(self.ak)).sign(
            rsa_key("vtpm-ca"), hashes.SHA256()
        )
        return {
            "AikCert": cert.public_bytes(Encoding.DER).ljust(4096, b"\0"),
            "AikPub": tpm2b(ak),
            "PcrQuote": quote,
            "PcrSignature": self.sign(quote),
            "EncKeyPub": tpm2b(public),
            "EncKeyCertifyInfo": certify,
            "EncKeyCertifyInfoSignature": self.sign(certify),
            "PcrSet": list(self.pcrs),
            "PCRs": [{"Index": i, "Digest": d} for i, d in self.pcrs.items()],
        }

    def attestation_info(self) -> dict[str, Any]:
        """Write AttestationInfo as the C++ client does."""
        proof = {
            "SnpReport": b64u(self.report(self.runtime_data)),
            "VcekCertChain": b64(self.chain),
        }
        return {
            "AttestationProtocolVersion": "2.0",
            "ClientPayload": {"nonce": b64(b"nonce1")},
            "IsolationInfo": {
                "Evidence": {
                    "Proof": b64(json.dumps(proof).encode()),
                    "RunTimeData": b64(self.runtime_data),
                },
                "Type": "SevSnp",
            },
            "OSBuild": b64(b"NotApplication"),
            "OSDistro": b64(b"Debian GNU/Linux"),
            "OSType": b64(b"Linux"),
            "OSVersionMajor": 12,
            "OSVersionMinor": 0,
            "TcgLogs": b64(self.tcg_log),
            "TpmInfo": encode_bytes(self.tpm_info()),
        }

    def platform_request(self) -> dict[str, Any]:
        """Write a SevSnpVm body as the Python client does."""
        report = {
            "SnpReport": b64u(self.report(self.runtime_data)),
            "VcekCertChain": b64u(self.chain),
        }
        return {
            "report": b64u(json.dumps(report).encode()),
            "runtimeData": {"data": b64u(self.runtime_data), "dataType": "JSON"},
        }


def encode_bytes(value: Json) -> Json:
    """Write every bytes value in standard base64."""
    if isinstance(value, bytes):
        return b64(value)
    if isinstance(value, list):
        return [encode_bytes(v) for v in value]
    if isinstance(value, dict):
        return {k: encode_bytes(v) for k, v in value.items()}
    return copy.copy(value)
