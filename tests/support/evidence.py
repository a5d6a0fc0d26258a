"""A small chip, paravisor and vTPM for tests; their evidence verifies.

What the captures lack is minted here: VLEKs, Turin's layout, versions 2 and 5. Tests
change one argument or one byte.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import struct
from dataclasses import dataclass, replace
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from support.evidence_amd import (
    CHIP_ID,
    MILAN_TCB,
    chip_key,
    mint_chain,
    roots_of,
    rsa_key,
)

from skragent.evidence.hcl import parse_hcl_report
from skragent.evidence.quote import SignedAttest, compute_policy_pcr
from skragent.evidence.snp import SnpReport, parse_snp_report
from skragent.evidence.tcb import Tcb
from skragent.evidence.tpm_public import (
    encode_wrapping_key_template,
    parse_tpm2b_public,
)
from skragent.evidence.verification import Evidence

PCRS = tuple(hashlib.sha256(bytes([index])).digest() for index in range(8))


def encode_tcb(tcb: Tcb) -> bytes:
    """TCB_VERSION, in the layout that the TCB itself tells."""
    if tcb.fmc is None:
        return bytes((tcb.bootloader, tcb.tee, 0, 0, 0, 0, tcb.snp, tcb.microcode))
    parts = (tcb.fmc, tcb.bootloader, tcb.tee, tcb.snp, 0, 0, 0, tcb.microcode)
    return bytes(parts)


def build_report(
    *,
    version: int = 3,
    cpuid: tuple[int, int, int] = (0x19, 1, 1),
    tcb: Tcb = MILAN_TCB,
    chip_id: bytes = CHIP_ID,
    report_data: bytes = bytes(64),
    policy: int = 0x3001F,
    platform_info: int = 0x25,
    key_info: int = 0,
    algorithm: int = 1,
    mitigations: tuple[int, int] = (0, 0),
) -> bytes:
    """An SNP report, signed with the chip's key. Offsets are the table's."""
    report = bytearray(0x4A0)
    struct.pack_into("<IIQ", report, 0, version, 7, policy)
    struct.pack_into("<II", report, 0x30, 0, algorithm)
    struct.pack_into("<QI", report, 0x40, platform_info, key_info)
    report[0x50:0x90] = report_data
    report[0x90:0xC0] = hashlib.sha384(b"measurement").digest()
    for offset in (0x38, 0x180, 0x1E0, 0x1F0):  # current, reported, committed, launch
        report[offset : offset + 8] = encode_tcb(tcb)
    if version > 2:
        report[0x188:0x18B] = bytes(cpuid)
    report[0x1A0:0x1E0] = chip_id
    report[0x1E8:0x1F0] = bytes((29, 55, 1, 0, 4, 52, 1, 0))
    struct.pack_into("<QQ", report, 0x1F8, *mitigations)
    return sign_report(report)


def sign_report(report: bytes | bytearray) -> bytes:
    """Sign what stands in the first 0x2A0 bytes, with the chip's key."""
    signed = bytes(report[:0x2A0])
    der = chip_key().sign(signed, ec.ECDSA(hashes.SHA384()))
    r, s = utils.decode_dss_signature(der)
    return signed + r.to_bytes(72, "little") + s.to_bytes(72, "little") + bytes(368)


def build_snp(**options: Any) -> SnpReport:  # noqa: ANN401 - passed on
    """The same, parsed."""
    return parse_snp_report(build_report(**options))


def jwk(key: rsa.RSAPrivateKey, kid: str) -> dict[str, Any]:
    """A public key as runtime data have it."""
    modulus = key.public_key().public_numbers().n.to_bytes(256, "big")
    return {
        "kid": kid,
        "key_ops": ["sign"],
        "kty": "RSA",
        "e": "AQAB",
        "n": base64.urlsafe_b64encode(modulus).decode().rstrip("="),
    }


def claims(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 - passed on
    """Runtime data, as a newer paravisor has them; a None takes a member out."""
    members: dict[str, Any] = {
        "keys": [
            jwk(rsa_key("AK"), "HCLAkPub"),
            jwk(rsa_key("EK"), "HCLEkPub") | {"key_ops": ["encrypt"]},
        ],
        "vm-configuration": {
            "console-enabled": True,
            "secure-boot": True,
            "tpm-enabled": True,
            "vmUniqueId": "26F8BC30-774E-4290-8E7A-535F3B672AEE",
        },
        "user-data": "AB" * 64,
    } | changes
    return {name: value for name, value in members.items() if value is not None}


def build_hcl(
    runtime_data: bytes | None = None,
    *,
    version: int = 2,
    report_type: int = 2,
    hash_type: int = 1,
    request_version: int = 1,
    padding_bytes: int = 100,
    report: bytes | None = None,
) -> bytes:
    """An HCL report whose SNP report vouches for the runtime data."""
    data = json.dumps(claims()).encode() if runtime_data is None else runtime_data
    if report is None:
        digest = {1: hashlib.sha256, 2: hashlib.sha384, 3: hashlib.sha512}
        hashed = digest.get(hash_type, hashlib.sha256)(data).digest()
        report = build_report(report_data=hashed.ljust(64, b"\0"))
    header = struct.pack("<4sIIII12x", b"HCLA", version, 1236 + len(data), 2, 0)
    request = struct.pack(
        "<IIIII", 20 + len(data), request_version, report_type, hash_type, len(data)
    )
    return header + report + request + data + bytes(padding_bytes)


def tpm2b_public(
    key: rsa.RSAPrivateKey,
    *,
    attributes: int = 0x00050472,
    policy: bytes = b"",
    scheme: bytes = b"\x00\x14\x00\x0b",
) -> bytes:
    """An RSA public area; by default an AK's."""
    modulus = key.public_key().public_numbers().n.to_bytes(256, "big")
    area = (
        b"\x00\x01\x00\x0b"
        + attributes.to_bytes(4, "big")
        + _sized(policy)
        + b"\x00\x10"
        + scheme
        + b"\x08\x00\x00\x00\x00\x00"
        + _sized(modulus)
    )
    return _sized(area)


def _sized(value: bytes) -> bytes:
    return len(value).to_bytes(2, "big") + value


def wrapping_key_public(pcrs: tuple[bytes, ...] = PCRS) -> bytes:
    """The wrapping key's public area: the template with its modulus filled in."""
    modulus = rsa_key("wrapping").public_key().public_numbers().n
    unique = modulus.to_bytes(256, "big")
    return encode_wrapping_key_template(compute_policy_pcr(pcrs), unique)


def _attest(kind: bytes, qualifying_data: bytes, rest: bytes) -> bytes:
    signer_name = _sized(b"\x00\x0b" + bytes(32))
    clock_and_firmware = bytes(17 + 8)
    start = b"\xff\x54\x43\x47" + kind + signer_name + _sized(qualifying_data)
    return start + clock_and_firmware + rest


def sign_attest(message: bytes, key: str = "AK") -> SignedAttest:
    """Sign a TPMS_ATTEST with the AK, or another key."""
    signature = rsa_key(key).sign(message, padding.PKCS1v15(), hashes.SHA256())
    return SignedAttest(message, signature)


def quote_message(
    pcrs: tuple[bytes, ...] = PCRS,
    *,
    qualifying_data: bytes = b"",
    selection: bytes = b"\xff\x00\x00",
    algorithm: int = 0x000B,
) -> bytes:
    """TPMS_ATTEST of a quote over one bank."""
    digest = hashlib.sha256(b"".join(pcrs)).digest()
    rest = (
        b"\x00\x00\x00\x01"
        + algorithm.to_bytes(2, "big")
        + bytes((len(selection),))
        + selection
        + _sized(digest)
    )
    return _attest(b"\x80\x18", qualifying_data, rest)


def certify_message(public: bytes) -> bytes:
    """TPMS_ATTEST of a certification."""
    name = parse_tpm2b_public(public).name
    return _attest(b"\x80\x17", b"", _sized(name) + _sized(b"\x00\x0b" + bytes(32)))


@dataclass(frozen=True)
class World:
    """Evidence that verifies, and the roots to trust for it."""

    evidence: Evidence
    roots: frozenset[bytes]

    def but(self, **changes: Any) -> Evidence:  # noqa: ANN401 - passed on
        """The evidence with one part exchanged."""
        return replace(self.evidence, **changes)


@functools.cache
def mint_world() -> World:
    """All of it, of one VM."""
    chain = mint_chain()
    key = wrapping_key_public()
    evidence = Evidence(
        hcl_report=parse_hcl_report(build_hcl()),
        endorsements=chain,
        ak_certificate=b"\x30\x00",
        ak_public=tpm2b_public(rsa_key("AK")),
        pcrs=PCRS,
        quote=sign_attest(quote_message()),
        wrapping_key_public=key,
        wrapping_key_certification=sign_attest(certify_message(key)),
        tcg_log=b"",
    )
    return World(evidence, roots_of(chain))


def flip(data: bytes, bit: int) -> bytes:
    """The same bytes with one bit turned."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
