"""Valid values for attestation and release: a provider, a vault, a vTPM key.

All values are built from the protocols, without the code under test.
Tests change one detail of a value.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, keywrap
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from support.release_pki import (
    NOW,
    b64,
    b64url,
    make_certificate,
    pkcs8,
    rsa_key,
    uint,
    vault_certificate,
    vault_chain,
    x5c,
)

ISSUER = "https://sharedweu.weu.attest.azure.net"
VAULT = "https://myvault.vault.azure.net"
VERSION = "0123456789abcdef0123456789abcdef"
KID = f"{VAULT}/keys/mykey/{VERSION}"
NONCE = "a nonce"
WRAPPING_KID = "TpmEphemeralEncryptionKey"

OAEP_HASHES: dict[str, hashes.HashAlgorithm] = {
    "CKM_RSA_AES_KEY_WRAP": hashes.SHA1(),
    "RSA_AES_KEY_WRAP_256": hashes.SHA256(),
    "RSA_AES_KEY_WRAP_384": hashes.SHA384(),
}


def wrapping_key() -> rsa.RSAPrivateKey:
    """Stands for the key whose private half is in the TPM."""
    return rsa_key("wrapping")


# --- signed texts


def sign_jws(
    header: dict[str, Any], payload: dict[str, Any], key: rsa.RSAPrivateKey
) -> str:
    parts = [b64url(json.dumps(part).encode()) for part in (header, payload)]
    signed = ".".join(parts).encode()
    signature = key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
    return ".".join([*parts, b64url(signature)])


def flip_bit(text: str, bit: int) -> str:
    """Flip one bit of a text in ASCII; gives other text, maybe no longer ASCII."""
    data = bytearray(text.encode())
    data[bit // 8] ^= 1 << bit % 8
    return data.decode("latin-1")


# --- the provider


@functools.cache
def signing_certificate(name: str = "maa") -> x509.Certificate:
    return make_certificate(ISSUER, rsa_key(name))


def key_set(*names: str) -> bytes:
    """The answer of GET /certs; each key is called as its kid."""
    entries = [
        {
            "alg": "RS256",
            "kid": name,
            "kty": "RSA",
            "use": "sig",
            "x5c": x5c(signing_certificate(name)),
        }
        for name in names or ("maa",)
    ]
    return json.dumps({"keys": entries}).encode()


def public_jwk(key: rsa.RSAPrivateKey, kid: str, **members: object) -> dict[str, Any]:
    numbers = key.public_key().public_numbers()
    return {
        "e": uint(numbers.e),
        "kid": kid,
        "kty": "RSA",
        "n": uint(numbers.n),
        **members,
    }


def token_claims(**changes: object) -> dict[str, Any]:
    issued_at = int(NOW.timestamp())
    key = public_jwk(wrapping_key(), WRAPPING_KID, key_ops=["encrypt"])
    return {
        "exp": issued_at + 28800,
        "iat": issued_at,
        "iss": ISSUER,
        "jti": "6c66a583",
        "nbf": issued_at,
        "secureboot": True,
        "x-ms-attestation-type": "azurevm",
        "x-ms-azurevm-vmid": "D3FD4B09-37A3-40D5-8F2A-EA80762213CC",
        "x-ms-isolation-tee": {
            "x-ms-attestation-type": "sevsnpvm",
            "x-ms-compliance-status": "azure-compliant-cvm",
        },
        "x-ms-runtime": {
            "client-payload": {"nonce": b64(NONCE.encode())},
            "keys": [key],
        },
        **changes,
    }


def runtime(*keys: dict[str, Any]) -> dict[str, Any]:
    """An x-ms-runtime claim with these keys."""
    return {"client-payload": {"nonce": b64(NONCE.encode())}, "keys": list(keys)}


def make_token(
    claims: dict[str, Any] | None = None, *, signer: str = "maa", **header: object
) -> str:
    head = {"alg": "RS256", "jku": f"{ISSUER}/certs", "kid": "maa", "typ": "JWT"}
    return sign_jws(head | header, claims or token_claims(), rsa_key(signer))


def seal_token(
    token: str, inner_key: bytes = bytes(range(32)), iv: bytes = bytes(12)
) -> dict[str, Any]:
    """The inner JSON of a guest answer; `encode_answer` makes the body of it."""
    sealed = AESGCM(inner_key).encrypt(iv, token.encode(), b"Transport Key")
    encrypted = wrapping_key().public_key().encrypt(inner_key, padding.PKCS1v15())
    return {
        "Jwt": b64(sealed[:-16]),
        "EncryptedInnerKey": b64(encrypted),
        "EncryptionParams": {
            "BlockMode": "ChainingModeGCM",
            "BlockPadding": "PKCS7",
            "Cipher": "AES",
            "KeySizeInBits": 256,
            "Iv": b64(iv),
        },
        "AuthenticationData": b64(sealed[-16:]),
    }


def encode_answer(sealed: dict[str, Any]) -> bytes:
    return json.dumps({"token": b64url(json.dumps(sealed).encode())}).encode()


# --- the vault


def wrap(plaintext: bytes, enc: str = "RSA_AES_KEY_WRAP_256") -> bytes:
    """RSA-OAEP(transfer key) || AES-KWP(plaintext), to the wrapping key."""
    transfer_key = os.urandom(32)
    algorithm = OAEP_HASHES[enc]
    oaep = padding.OAEP(padding.MGF1(algorithm), algorithm, None)
    head = wrapping_key().public_key().encrypt(transfer_key, oaep)
    return head + keywrap.aes_key_wrap_with_padding(transfer_key, plaintext)


def open_transfer_key(head: bytes, enc: str = "RSA_AES_KEY_WRAP_256") -> bytes:
    """What the TPM does."""
    algorithm = OAEP_HASHES[enc]
    oaep = padding.OAEP(padding.MGF1(algorithm), algorithm, None)
    return wrapping_key().decrypt(head, oaep)


def public_members(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | bytes, *, is_hsm: bool = False
) -> dict[str, str]:
    """The JWK members by which a vault (or a Managed HSM) tells the public part."""
    suffix = "" if is_hsm else "-HSM"
    if isinstance(key, bytes):
        return {"kty": f"oct{suffix}"}
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.public_key().public_numbers()
        e = "AQAB" if is_hsm else "AAEAAQ"
        return {"kty": f"RSA{suffix}", "n": uint(numbers.n), "e": e}
    point = key.public_key().public_numbers()
    size = (key.curve.key_size + 7) // 8
    names = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
    return {
        "kty": f"EC{suffix}",
        "crv": names.get(key.curve.name, "P-256K"),
        "x": b64url(point.x.to_bytes(size, "big")),
        "y": b64url(point.y.to_bytes(size, "big")),
    }


@dataclass
class Release:
    """A valid release in parts; change one, then `encode`."""

    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | bytes
    is_hsm: bool = False
    enc: str = "RSA_AES_KEY_WRAP_256"
    ciphertext: bytes = b""
    header: dict[str, Any] = field(default_factory=dict)
    request: dict[str, Any] = field(default_factory=dict)
    jwk: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, Any] | None = None  # left out where a test says None
    key_hsm: dict[str, Any] = field(default_factory=dict)
    signer: str = "vault"

    def __post_init__(self) -> None:
        plain = self.key if isinstance(self.key, bytes) else pkcs8(self.key)
        self.ciphertext = self.ciphertext or wrap(plain, self.enc)
        leaf = vault_certificate().fingerprint(hashes.SHA256())
        self.header = {"alg": "RS256", "x5c": x5c(*vault_chain())}
        if self.is_hsm:
            self.header |= {"kid": b64url(leaf), "x5t#S256": b64url(leaf)}
        else:
            thumbprint = vault_certificate().fingerprint(hashes.SHA1())
            self.header |= {
                "kid": thumbprint.hex().upper(),
                "x5t": b64url(thumbprint),
                "typ": "JWT",
                "x5t#S256": b64url(leaf),
            }
        self.request = {
            "api-version": "7.3",
            "enc": self.enc,
            "kid": f"{VAULT}/keys/mykey",
        }
        self.jwk = {
            "kid": KID,
            **public_members(self.key, is_hsm=self.is_hsm),
            "key_ops": ["encrypt", "decrypt"],
        }
        self.attributes = {"enabled": True, "created": 1650640005, "exportable": True}
        head = {"kid": WRAPPING_KID, "alg": "dir", "enc": self.enc}
        self.key_hsm = {
            "schema_version": "1.0",
            "header": head,
            "ciphertext": b64url(self.ciphertext),
        }

    def payload(self) -> dict[str, Any]:
        key_hsm = json.dumps(self.key_hsm, sort_keys=self.is_hsm).encode()
        policy = {"data": b64url(b'{"version":"1.0.0"}'), "immutable": False}
        if self.is_hsm:
            policy["contentType"] = "application/json; charset=utf-8"
        bundle = {
            "key": {**self.jwk, "key_hsm": b64url(key_hsm)},
            "attributes": self.attributes,
            "release_policy": policy,
        }
        if self.attributes is None:
            del bundle["attributes"]
        if self.is_hsm:  # it sorts its members
            bundle = json.loads(json.dumps(bundle, sort_keys=True))
        return {"request": self.request, "response": {"key": bundle}}

    def encode(self) -> str:
        return sign_jws(self.header, self.payload(), rsa_key(self.signer))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
