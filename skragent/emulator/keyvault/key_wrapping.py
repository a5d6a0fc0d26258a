"""Wrap a key for release: PKCS #11's RSA_AES_KEY_WRAP with three hashes.

RSA-OAEP encrypts an AES-256 transfer key, and AES-KWP (RFC 5649) wraps the target.
`enc` selects the hash of OAEP and its MGF1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding

from skragent.emulator.encoding import NotBase64Error, decode_base64
from skragent.emulator.service import RefusalError

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_ENC = "CKM_RSA_AES_KEY_WRAP"
_HASHES: dict[str, Callable[[], hashes.HashAlgorithm]] = {
    DEFAULT_ENC: hashes.SHA1,
    "RSA_AES_KEY_WRAP_256": hashes.SHA256,
    "RSA_AES_KEY_WRAP_384": hashes.SHA384,
}
_TRANSFER_KEY_BITS = 256


@dataclass(frozen=True, slots=True)
class WrappingKey:
    """The public key in a token that the vault wraps to."""

    kid: str
    key: rsa.RSAPublicKey


def select_wrapping_key(claims: dict[str, Any]) -> WrappingKey:
    """Return the first suitable key of the token's top-level `x-ms-runtime.keys`.

    A suitable key is an RSA key with a kid and for encryption, by `use` or by
    `key_ops` (a string in some clients' tokens).
    """
    runtime = claims.get("x-ms-runtime")
    keys = runtime.get("keys") if isinstance(runtime, dict) else None
    for jwk in keys if isinstance(keys, list) else []:
        if isinstance(jwk, dict) and _is_suitable(jwk):
            return _load(jwk)
    raise RefusalError(
        400, "BadParameter", "The attestation token has no key to encrypt to."
    )


def _is_suitable(jwk: dict[str, Any]) -> bool:
    operations = jwk.get("key_ops")
    encrypts = jwk.get("use") == "enc" or (
        isinstance(operations, str | list) and "encrypt" in operations
    )
    return encrypts and jwk.get("kty") == "RSA" and isinstance(jwk.get("kid"), str)


def _load(jwk: dict[str, Any]) -> WrappingKey:
    try:
        n, e = (int.from_bytes(decode_base64(jwk.get(m)), "big") for m in ("n", "e"))
        return WrappingKey(jwk["kid"], rsa.RSAPublicNumbers(e, n).public_key())
    except (NotBase64Error, ValueError) as error:
        raise RefusalError(
            400, "BadParameter", "The attestation token's key is not an RSA key."
        ) from error


def wrap_key(target: bytes, wrapping_key: rsa.RSAPublicKey, enc: str) -> bytes:
    """Wrap PKCS #8 or raw key bytes to a key."""
    if enc not in _HASHES:
        raise RefusalError(400, "BadParameter", f"The enc {enc!r} is not supported.")
    digest = _HASHES[enc]
    transfer_key = AESGCM.generate_key(_TRANSFER_KEY_BITS)
    oaep = padding.OAEP(padding.MGF1(digest()), digest(), label=None)
    try:
        head = wrapping_key.encrypt(transfer_key, oaep)
    except ValueError as error:  # the modulus is too small for the padding
        raise RefusalError(
            400, "BadParameter", "The attestation token's key is too small."
        ) from error
    return head + aes_key_wrap_with_padding(transfer_key, target)
