"""Base64 in the variants that clients use, JSON, and compact JWS."""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import rsa

_STANDARD = re.compile(r"[A-Za-z0-9+/]*")
_TO_STANDARD = str.maketrans("-_", "+/")

# In base64url of ASCII text, `-` and `_` occur only if the third of three bytes is `>`,
# `?`, `~` or DEL, whose low six bits are 62 or 63. The C++ client (AzureAttestSKR)
# decodes claims with the standard alphabet and crashes at either character.
_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in ">?~\x7f"}


class NotBase64Error(ValueError):
    """A value that is not base64 in either alphabet."""


def decode_base64(text: object) -> bytes:
    """Decode either alphabet, with or without padding; clients use all four forms.

    Raises:
        NotBase64Error: the value is not base64, or not a string.
    """
    if not isinstance(text, str):
        raise NotBase64Error("not a string")
    digits = text.rstrip("=").translate(_TO_STANDARD)
    if not _STANDARD.fullmatch(digits) or len(digits) % 4 == 1:
        raise NotBase64Error("not base64")
    return binascii.a2b_base64(digits + "=" * (-len(digits) % 4))


def base64url(data: bytes) -> str:
    """Encode with the URL alphabet and without padding, as JOSE requires."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def base64std(data: bytes) -> str:
    """Encode with the standard alphabet and padding."""
    return base64.b64encode(data).decode()


def base64url_uint(number: int, size: int = 0) -> str:
    """Encode an integer as JWK does (RFC 7518 §2), in at least `size` bytes."""
    length = max(size, (number.bit_length() + 7) // 8, 1)
    return base64url(number.to_bytes(length, "big"))


def dump_json(value: Any, *, sort: bool = False) -> bytes:  # noqa: ANN401 - any JSON
    """Encode JSON without spaces."""
    return json.dumps(value, separators=(",", ":"), sort_keys=sort).encode()


def dump_plain_json(value: Any) -> bytes:  # noqa: ANN401 - any JSON
    """Encode sorted JSON whose base64url contains neither `-` nor `_`.

    Only strings can contain the four escaped characters, so the value stays the same.
    """
    text = json.dumps(value, separators=(",", ":"), sort_keys=True)
    return text.translate(_ESCAPES).encode()


def sign_jws(header: dict[str, Any], payload: bytes, key: rsa.RSAPrivateKey) -> str:
    """Sign a compact JWS with RS256."""
    text = f"{base64url(dump_json(header))}.{base64url(payload)}"
    signature = key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{text}.{base64url(signature)}"
