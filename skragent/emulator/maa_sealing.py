"""Sealing a guest's token to its wrapping key, as AzureGuest answers are.

AES-256-GCM under an inner key, the inner key under RSAES-PKCS1-v1_5 to the certified
key of the vTPM. The inner values are standard base64 with padding (the C++ client
aborts on anything else) and the whole is base64url without.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from skragent.emulator.encoding import base64std

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import rsa

_KEY_BITS = 256
_IV_BYTES = 12
_TAG_BYTES = 16
_ASSOCIATED_DATA = b"Transport Key"


def seal_token(token: str, wrapping_key: rsa.RSAPublicKey) -> dict[str, Any]:
    """Encrypt a token so that only the certified key opens it."""
    inner_key = AESGCM.generate_key(_KEY_BITS)
    iv = secrets.token_bytes(_IV_BYTES)
    sealed = AESGCM(inner_key).encrypt(iv, token.encode(), _ASSOCIATED_DATA)
    return {
        "Jwt": base64std(sealed[:-_TAG_BYTES]),
        "EncryptedInnerKey": base64std(
            wrapping_key.encrypt(inner_key, padding.PKCS1v15())
        ),
        "EncryptionParams": {
            "BlockMode": "ChainingModeGCM",
            "BlockPadding": "PKCS7",
            "Cipher": "AES",
            "KeySizeInBits": _KEY_BITS,
            "Iv": base64std(iv),
        },
        "AuthenticationData": base64std(sealed[-_TAG_BYTES:]),
    }
