"""The keys of a vault: material, versions and attributes, in files.

Each key has one JSON file (mode 0600), so that it outlives a restart. The store does
not check permissions.
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

RECOVERABLE_DAYS = 7
_DELETED = "deleted"  # the directory of deleted keys

Material = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | bytes


@dataclass(slots=True)
class KeyVersion:
    """A version of a key: its material and its own attributes."""

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
        """The key type without the suffix `-HSM`."""
        if isinstance(self.material, bytes):
            return "oct"
        return "RSA" if isinstance(self.material, rsa.RSAPrivateKey) else "EC"

    @property
    def target(self) -> bytes:
        """The bytes to wrap on release: PKCS #8, or the raw bytes of an oct key."""
        if isinstance(self.material, bytes):
            return self.material
        return self.material.private_bytes(
            Encoding.DER, PrivateFormat.PKCS8, NoEncryption()
        )


@dataclass(slots=True)
class StoredKey:
    """A key: the common attributes, and the versions from the oldest to the latest."""

    name: str
    exportable: bool
    policy: bytes = b""  # the release policy as it was set; empty: none
    policy_is_immutable: bool = False
    versions: list[KeyVersion] = field(default_factory=list)
    deleted: int | None = None  # the time of deletion; None: not deleted

    @property
    def purge_time(self) -> int | None:
        """The time when a deleted key is purged."""
        if self.deleted is None:
            return None
        return self.deleted + RECOVERABLE_DAYS * 86400

    @property
    def latest(self) -> KeyVersion:
        """The version for requests without a version."""
        return self.versions[-1]

    def version(self, version: str) -> KeyVersion | None:
        """Return a version; an empty string means the latest."""
        if not version:
            return self.latest
        return next((v for v in self.versions if v.version == version), None)


class KeyStore:
    """The keys of one vault, and its deleted, recoverable keys."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._keys = _load(directory)
        self._deleted = _load(directory / _DELETED)

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def names(self) -> list[str]:
        """The names of all keys, sorted."""
        return sorted(self._keys)

    @property
    def deleted_names(self) -> list[str]:
        """The names of all deleted keys, sorted."""
        return sorted(self._deleted)

    def find(self, name: str) -> StoredKey | None:
        """Return a copy of a key; names are not case-sensitive.

        `save` stores changes of the copy.
        """
        return _copy(self._keys.get(name.lower()))

    def find_deleted(self, name: str) -> StoredKey | None:
        """Return a copy of a deleted key."""
        return _copy(self._deleted.get(name.lower()))

    def save(self, key: StoredKey) -> None:
        """Store a new or changed key."""
        self._keys[key.name.lower()] = key
        write_private(self._path(key.name), encode_key(key))

    def delete(self, name: str) -> None:
        """Remove a key with all its versions permanently."""
        del self._keys[name.lower()]
        self._path(name).unlink()

    def soft_delete(self, name: str, now: int) -> StoredKey:
        """Move a key to the deleted keys."""
        key = replace(self._keys[name.lower()], deleted=now)
        write_private(self._deleted_path(name), encode_key(key))
        self._deleted[name.lower()] = key
        self.delete(name)
        return key

    def recover(self, name: str) -> StoredKey:
        """Move a deleted key back."""
        key = replace(self._deleted[name.lower()], deleted=None)
        self.save(key)
        self.purge(name)
        return key

    def purge(self, name: str) -> None:
        """Remove a deleted key permanently."""
        del self._deleted[name.lower()]
        self._deleted_path(name).unlink()

    def purge_expired(self, now: float) -> None:
        """Purge the deleted keys whose recovery period is over."""
        for name, key in [*self._deleted.items()]:
            if key.purge_time is not None and key.purge_time <= now:
                self.purge(name)

    def _path(self, name: str) -> Path:
        return self._directory / f"{name.lower()}.json"

    def _deleted_path(self, name: str) -> Path:
        return self._directory / _DELETED / f"{name.lower()}.json"


def _load(directory: Path) -> dict[str, StoredKey]:
    keys = [decode_key(p.read_bytes()) for p in sorted(directory.glob("*.json"))]
    return {key.name.lower(): key for key in keys}


def _copy(key: StoredKey | None) -> StoredKey | None:
    if key is None:
        return None
    return replace(key, versions=[replace(v) for v in key.versions])


def new_version_id() -> str:
    """Return a new version id: 32 hexadecimal digits."""
    return secrets.token_hex(16)


def encode_key(key: StoredKey) -> bytes:
    """Encode a key with all its versions and private parts."""
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
    document: dict[str, Any] = {
        "name": key.name,
        "exportable": key.exportable,
        "policy": key.policy.decode(),
        "policy_is_immutable": key.policy_is_immutable,
        "versions": versions,
    }
    if key.deleted is not None:
        document["deleted"] = key.deleted
    return json.dumps(document, indent=1).encode()


def decode_key(data: bytes) -> StoredKey:
    """Decode the output of `encode_key`."""
    document: dict[str, Any] = json.loads(data)
    versions = []
    for entry in document.pop("versions"):
        material: Any = decode_base64(entry.pop("material"))
        if entry.pop("kty") != "oct":
            material = load_der_private_key(material, None)
        versions.append(KeyVersion(material=material, **entry))
    policy = document.pop("policy").encode()
    return StoredKey(**document, policy=policy, versions=versions)
