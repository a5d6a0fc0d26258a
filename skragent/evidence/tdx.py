"""Recognise evidence of Intel TDX, which is not supported, to name it in errors.

TD quote: Intel TDX DCAP Quoting Library API, "Quote Header". TDREPORT: Intel TDX Module
ABI specification, TDREPORT_STRUCT, which begins with REPORTTYPE.
"""

from __future__ import annotations

from typing import Final

_TEE_TYPE_TDX: Final = 0x81  # in both
_QUOTE_VERSIONS: Final = (4, 5)
_QUOTE_HEADER_BYTES: Final = 48
_TDREPORT_BYTES: Final = 1024


def name_tdx_evidence(data: bytes) -> str:
    """Return a name such as "a TD quote"; empty if this is not evidence of TDX."""
    version = int.from_bytes(data[:2], "little")
    tee_type = int.from_bytes(data[4:8], "little")
    if (
        len(data) >= _QUOTE_HEADER_BYTES
        and version in _QUOTE_VERSIONS
        and tee_type == _TEE_TYPE_TDX
    ):
        return f"a TD quote (Intel TDX, version {version})"
    # REPORTTYPE: type, subtype, version, reserved.
    if len(data) == _TDREPORT_BYTES and data[0] == _TEE_TYPE_TDX and data[3] == 0:
        return "a TDREPORT (Intel TDX)"
    return ""
