"""The keys of an emulated vault: material, versions, attributes, and their file.

One JSON file a key, 0600, so that a restart keeps them. What a caller may do is
decided elsewhere.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from skragent.emulator.encoding import base64std, decode_base64
from skragent.emulator.pki import write_private

if TYPE_CHECKING:
    from pathlib import Path

Material = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | bytes


@dataclass(slots=True)
class KeyVersion:
    """One version of a key: its material and its own attributes."""

    version: str
    material: Material
    key_ops: list[str]
    created: int
    updated: int
    enabled: bool = True
    not_before: int | None = None
    expires: int | None = None
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def kty(self) -> str:
        """The type without `-HSM`."""
        if isinstance(self.material, bytes):
            return "oct"
        return "RSA" if isinstance(self.material, rsa.RSAPrivateKey) else "EC"

    @property
    def target(self) -> bytes:
        """What is wrapped on release: PKCS #8, or the raw bytes of an oct key."""
        if isinstance(self.material, bytes):
            return self.material
        return self.material.private_bytes(
            Encoding.DER, PrivateFormat.PKCS8, NoEncryption()
        )


@dataclass(slots=True)
class StoredKey:
    """A key: what all versions share, and the versions, oldest first."""

    name: str
    exportable: bool
    policy: bytes = b""  # the JSON as it was set; empty for none
    policy_is_immutable: bool = False
    versions: list[KeyVersion] = field(default_factory=list)

    @property
    def latest(self) -> KeyVersion:
        """The version that a request without a version means."""
        return self.versions[-1]

    def version(self, version: str) -> KeyVersion | None:
        """Find a version; an empty string means the latest."""
        if not version:
            return self.latest
        return next((v for v in self.versions if v.version == version), None)


class KeyStore:
    """The keys of one vault."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._keys = {
            key.name.lower(): key
            for path in sorted(directory.glob("*.json"))
            for key in [_decode(path.read_bytes())]
        }

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def names(self) -> list[str]:
        """The names of all keys, sorted."""
        return sorted(self._keys)

    def find(self, name: str) -> StoredKey | None:
        """Find a key; names do not tell case apart.

        What it gives is the caller's: a change counts once it is saved.
        """
        key = self._keys.get(name.lower())
        if key is None:
            return None
        return replace(key, versions=[replace(v) for v in key.versions])

    def save(self, key: StoredKey) -> None:
        """Keep a key, new or changed."""
        self._keys[key.name.lower()] = key
        write_private(self._directory / f"{key.name.lower()}.json", _encode(key))

    def delete(self, name: str) -> None:
        """Remove a key with all its versions."""
        del self._keys[name.lower()]
        (self._directory / f"{name.lower()}.json").unlink()


def new_version_id() -> str:
    """Make a version's identifier: 32 hex digits."""
    return secrets.token_hex(16)


def _encode(key: StoredKey) -> bytes:
    versions = [
        {
            "version": v.version,
            "kty": v.kty,
            "material": base64std(v.target),
            "key_ops": v.key_ops,
            "created": v.created,
            "updated": v.updated,
            "enabled": v.enabled,
            "not_before": v.not_before,
            "expires": v.expires,
            "tags": v.tags,
        }
        for v in key.versions
    ]
    document = {
        "name": key.name,
        "exportable": key.exportable,
        "policy": key.policy.decode(),
        "policy_is_immutable": key.policy_is_immutable,
        "versions": versions,
    }
    return json.dumps(document, indent=1).encode()


def _decode(data: bytes) -> StoredKey:
    """Read a file that `_encode` wrote."""
    document: dict[str, Any] = json.loads(data)
    versions = []
    for entry in document.pop("versions"):
        material: Any = decode_base64(entry.pop("material"))
        if entry.pop("kty") != "oct":
            material = load_der_private_key(material, None)
        versions.append(KeyVersion(material=material, **entry))
    policy = document.pop("policy").encode()
    return StoredKey(**document, policy=policy, versions=versions)
