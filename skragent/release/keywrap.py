"""CKM_RSA_AES_KEY_WRAP: RSA-OAEP(transfer key) || AES-KWP(key).

PKCS #11 v3.0 §2.1.21, RFC 5649. The first part is as long as the wrapping key's
modulus and is decrypted in the vTPM; the rest is decrypted here. `enc` determines the
hash of OAEP and of its MGF1 (github.com/microsoft/confidential-sidecar-containers,
pkg/common/akv.go).

Every failure has the same message: the failed step would only help an attacker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from cryptography.hazmat.primitives.keywrap import (
    aes_key_unwrap_with_padding,
)

from skragent.certificates import CertificateError, reading
from skragent.errors import UnwrapError

if TYPE_CHECKING:
    from skragent.release.envelope import Enc

Scheme = Literal["oaep-sha1", "oaep-sha256", "oaep-sha384"]

OAEP_SCHEMES: Final[dict[Enc, Scheme]] = {
    "CKM_RSA_AES_KEY_WRAP": "oaep-sha1",
    "RSA_AES_KEY_WRAP_256": "oaep-sha256",
    "RSA_AES_KEY_WRAP_384": "oaep-sha384",
}

_TRANSFER_KEY_BYTES = 32
_MIN_KWP_BYTES = 16  # RFC 5649 §4.1: one block carries up to eight bytes
_SEMIBLOCK_BYTES = 8


def split_wrapped_key(ciphertext: bytes, modulus_bytes: int) -> tuple[bytes, bytes]:
    """Split into the encrypted transfer key and the encrypted key.

    Raises:
        UnwrapError: the second part is too short, or not a multiple of 8 bytes.
    """
    head, tail = ciphertext[:modulus_bytes], ciphertext[modulus_bytes:]
    if len(tail) < _MIN_KWP_BYTES or len(tail) % _SEMIBLOCK_BYTES:
        raise unwrap_error()
    return head, tail


def unwrap_key(transfer_key: bytes | bytearray, encrypted_key: bytes) -> bytearray:
    """Decrypt the key with the transfer key; the caller wipes both.

    Raises:
        UnwrapError: for every cause.
    """
    if (
        len(transfer_key) != _TRANSFER_KEY_BYTES
        or len(encrypted_key) < _MIN_KWP_BYTES
        or len(encrypted_key) % _SEMIBLOCK_BYTES
    ):
        raise unwrap_error()
    try:
        with reading("the wrapped key", quotes_reason=False):
            return bytearray(
                aes_key_unwrap_with_padding(bytes(transfer_key), encrypted_key)
            )
    except CertificateError:
        # Without the cause, which would show the failed check.
        raise unwrap_error() from None


def unwrap_error() -> UnwrapError:
    """Return the error of this step."""
    return UnwrapError("the wrapped key cannot be unwrapped")
