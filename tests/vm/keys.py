"""Keys in the forms that the agent serves, and their secrets in every encoding."""

from __future__ import annotations

import base64

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from skragent.emulator.keyvault.key_store import KeyVersion

_PIECE = 24  # characters or bytes of a secret: too long to match by chance


def pem_of(version: KeyVersion) -> str:
    """Return an asymmetric key as PEM."""
    material = version.material
    assert not isinstance(material, bytes)
    pem = material.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem.decode()


def encodings(version: KeyVersion) -> dict[str, bytes]:
    """Return pieces of a key's secret numbers in every encoding, by name."""
    found: dict[str, bytes] = {}
    for name, secret in _secrets(version).items():
        place = f"{version.version} {name}"
        texts = {
            "base64url": base64.urlsafe_b64encode(secret),
            "base64": base64.b64encode(secret),
            "hex": secret.hex().encode(),
            "HEX": secret.hex().upper().encode(),
            "raw": secret,
        }
        for encoding, text in texts.items():
            middle = max(0, len(text) // 2 - _PIECE)
            found[f"{place} {encoding}"] = text[middle : middle + _PIECE]
    if not isinstance(version.material, bytes):
        lines = pem_of(version).splitlines()
        # The private part follows the public part.
        for number in range(9, len(lines) - 2, 3):
            found[f"{version.version} PEM line {number}"] = lines[number].encode()
    return found


def _secrets(version: KeyVersion) -> dict[str, bytes]:
    material = version.material
    if isinstance(material, bytes):
        return {"k": material}
    assert isinstance(material, rsa.RSAPrivateKey)
    numbers = material.private_numbers()
    values = {"d": numbers.d, "p": numbers.p, "q": numbers.q}
    return {n: v.to_bytes((v.bit_length() + 7) // 8) for n, v in values.items()}
