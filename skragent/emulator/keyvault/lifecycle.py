"""Deletion, recovery, purging, backup and restore of keys; random bytes.

Soft delete is on, as in every vault in Azure. A deleted key cannot be read or
released, and its name cannot be reused until it is recovered or purged. In Azure a
deletion takes effect after some seconds, here at once.

In Azure, a vault's backup can be restored to vaults of the same subscription and
geography, and a Managed HSM's to HSMs of the same security domain. Here it can be
restored to all emulated vaults, or all Managed HSMs, of one directory.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from skragent.emulator.encoding import NotBase64Error, base64url, decode_base64
from skragent.emulator.keyvault.key_material import bad_parameter
from skragent.emulator.keyvault.key_store import decode_key, encode_key
from skragent.emulator.pki import write_private
from skragent.emulator.service import RefusalError

if TYPE_CHECKING:
    from pathlib import Path

    from skragent.emulator.keyvault.dialect import Dialect
    from skragent.emulator.keyvault.key_store import KeyStore, StoredKey

_MAX_RANDOM_BYTES = 128
_SECRET_BYTES = 32
_NONCE_BYTES = 12


class InvalidBackupError(ValueError):
    """A blob that is not a backup of a vault of this kind, or that was changed."""


class BackupSealer:
    """Encrypts and decrypts backups with a secret in a file."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            write_private(path, secrets.token_bytes(_SECRET_BYTES))
        self._cipher = AESGCM(path.read_bytes())

    def seal(self, data: bytes) -> bytes:
        """Encrypt a backup."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, data, None)

    def open(self, blob: bytes) -> bytes:
        """Decrypt a backup.

        Raises:
            InvalidBackupError: the blob cannot be decrypted.
        """
        nonce, sealed = blob[:_NONCE_BYTES], blob[_NONCE_BYTES:]
        try:
            return self._cipher.decrypt(nonce, sealed, None)
        except (InvalidTag, ValueError) as error:
            raise InvalidBackupError("not a backup of a vault of this kind") from error


class KeyLifecycle:
    """The deleted keys and backups of a vault. Results are JSON documents."""

    def __init__(
        self, store: KeyStore, url: str, dialect: Dialect, sealer: BackupSealer
    ) -> None:
        self._store = store
        self._url = url
        self._dialect = dialect
        self._sealer = sealer

    def verify_name(self, name: str) -> None:
        """Require that a new key's name does not belong to a deleted key.

        The text is Key Vault's, as the tests of Azure's C++ SDK expect it.
        """
        if self._store.find_deleted(name) is not None:
            raise RefusalError(
                409,
                "Conflict",
                f"Key {name} is currently in a deleted but recoverable state, and its"
                " name cannot be reused; in this state, the key can only be recovered"
                " or purged.",
                inner="ObjectIsDeletedButRecoverable",
            )

    def delete(self, key: StoredKey, now: float) -> dict[str, Any]:
        """Delete a key with all its versions."""
        return self._deleted_bundle(self._store.soft_delete(key.name, int(now)))

    def deleted(self, name: str) -> dict[str, Any]:
        """Return a deleted key."""
        return self._deleted_bundle(self._find(name))

    def list_deleted(self) -> dict[str, Any]:
        """Return all deleted keys."""
        keys = [self._find(name) for name in self._store.deleted_names]
        value = [
            {
                **self._dialect.deletion(self._url, key),
                "kid": f"{self._url}/keys/{key.name}",
                "attributes": self._dialect.attributes(key, key.latest),
            }
            for key in keys
        ]
        return {"value": value, "nextLink": None}

    def recover(self, name: str) -> dict[str, Any]:
        """Recover a deleted key."""
        key = self._store.recover(self._find(name).name)
        return self._dialect.bundle(self._url, key, key.latest)

    def purge(self, name: str) -> None:
        """Remove a deleted key permanently."""
        self._store.purge(self._find(name).name)

    def backup(self, key: StoredKey) -> dict[str, Any]:
        """Return all versions of a key as an encrypted blob."""
        return {"value": base64url(self._sealer.seal(encode_key(key)))}

    def restore(self, body: dict[str, Any]) -> dict[str, Any]:
        """Restore a key with all its versions from a backup.

        Azure's texts for these refusals are unknown.
        """
        try:
            key = decode_key(self._sealer.open(decode_base64(body.get("value"))))
        except (NotBase64Error, InvalidBackupError) as error:
            raise bad_parameter(
                "value is not the backup of a key that can be restored here."
            ) from error
        self.verify_name(key.name)
        if self._store.find(key.name) is not None:
            raise RefusalError(
                409, "Conflict", f"Key {key.name} already exists in this key vault."
            )
        self._store.save(key)
        return self._dialect.bundle(self._url, key, key.latest)

    def _find(self, name: str) -> StoredKey:
        key = self._store.find_deleted(name)
        if key is None:
            raise RefusalError(404, "KeyNotFound", f"Deleted Key not found: {name}")
        return key

    def _deleted_bundle(self, key: StoredKey) -> dict[str, Any]:
        bundle = self._dialect.bundle(self._url, key, key.latest)
        return self._dialect.deletion(self._url, key) | bundle


def random_bytes(body: dict[str, Any]) -> dict[str, Any]:
    """Return random bytes, an operation of Managed HSM only."""
    count = body.get("count")
    if isinstance(count, bool) or not isinstance(count, int):
        raise bad_parameter("count must be a number.")
    if not 1 <= count <= _MAX_RANDOM_BYTES:
        raise bad_parameter(f"count must be from 1 to {_MAX_RANDOM_BYTES}.")
    return {"value": base64url(secrets.token_bytes(count))}
