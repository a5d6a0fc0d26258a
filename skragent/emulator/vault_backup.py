"""Backups of keys: one opaque blob a key, that only a vault of the same kind opens.

In Azure, a vault's backup is restored to vaults of the same subscription and geography,
and a Managed HSM's to those of the same security domain. Here, these are all emulated
vaults, or all emulated Managed HSMs, of one directory.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from skragent.emulator.pki import write_private

if TYPE_CHECKING:
    from pathlib import Path

_SECRET_BYTES = 32
_NONCE_BYTES = 12


class InvalidBackupError(ValueError):
    """A blob that no vault of this kind made, or that was changed."""


class BackupSealer:
    """Encrypts and decrypts backups with a secret that a file keeps."""

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
            InvalidBackupError: it cannot be decrypted.
        """
        nonce, sealed = blob[:_NONCE_BYTES], blob[_NONCE_BYTES:]
        try:
            return self._cipher.decrypt(nonce, sealed, None)
        except (InvalidTag, ValueError) as error:
            raise InvalidBackupError("not a backup of such a vault") from error
