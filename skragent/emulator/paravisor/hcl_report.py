"""Encode the HCL report: header, hardware report and runtime data in 2600 bytes.

The layout is that of OpenHCL (`IgvmAttestRequest…`) and of captured reports; all
fields are little-endian. Hardware binds only the runtime data: the first half of
REPORT_DATA is the SHA-256 of its JSON text. The host could change header and sizes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from dataclasses import dataclass
from typing import Final, Literal

NV_REPORT_BYTES: Final = 2600
_HARDWARE_REPORT_BYTES: Final = 1184
_REQUEST_AK_CERT: Final = 2
_REPORT_SNP: Final = 2
_HASH_SHA256: Final = 1
_EXPONENT: Final = "AQAB"

HeaderVersion = Literal[1, 2]


@dataclass(frozen=True, slots=True)
class RuntimeData:
    """The paravisor's claims about the VM, in the order of captured reports.

    Reports of 2022 and 2023 had neither the EK nor user data.
    """

    ak_modulus: int
    ek_modulus: int | None
    vm_id: str
    secure_boot: bool
    user_data: bytes | None

    def encode(self) -> bytes:
        """Return the compact JSON text, which is hashed."""
        keys = [_jwk("HCLAkPub", "sign", self.ak_modulus)]
        if self.ek_modulus is not None:
            keys.append(_jwk("HCLEkPub", "encrypt", self.ek_modulus))
        document: dict[str, object] = {
            "keys": keys,
            "vm-configuration": {
                "console-enabled": True,
                "secure-boot": self.secure_boot,
                "tpm-enabled": True,
                "vmUniqueId": self.vm_id,
            },
        }
        if self.user_data is not None:
            document["user-data"] = self.user_data.hex().upper()
        return json.dumps(document, separators=(",", ":")).encode()


def report_data(claims: bytes) -> bytes:
    """Return the 64 bytes that bind runtime data to a hardware report."""
    return hashlib.sha256(claims).digest().ljust(64, b"\0")


def encode_hcl_report(
    hardware_report: bytes,
    claims: bytes,
    *,
    version: HeaderVersion = 2,
    index_bytes: int = NV_REPORT_BYTES,
) -> bytes:
    """Combine the parts and pad them with zeros to the size of the index."""
    data = struct.pack(
        "<IIIII", 20 + len(claims), 1, _REPORT_SNP, _HASH_SHA256, len(claims)
    )
    total = 32 + _HARDWARE_REPORT_BYTES + len(data) + len(claims)
    head = b"HCLA" + struct.pack("<III", version, total, _REQUEST_AK_CERT) + bytes(16)
    whole = head + hardware_report + data + claims
    return whole.ljust(index_bytes, b"\0")


def _jwk(kid: str, operation: str, modulus: int) -> dict[str, object]:
    n = base64.urlsafe_b64encode(modulus.to_bytes(256)).rstrip(b"=").decode()
    return {"kid": kid, "key_ops": [operation], "kty": "RSA", "e": _EXPONENT, "n": n}
