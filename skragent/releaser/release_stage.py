"""The second stage: release one key, verify and unwrap it, write it into the arena."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skragent.errors import MalformedReleaseError
from skragent.job import ARENA_BYTES_PER_KEY, FailedKey, ReleasedKey, Slice
from skragent.release.envelope import ReleaseRequest, WrappedKey, verify_release
from skragent.release.formats import RenderedKey, render_key
from skragent.release.keywrap import (
    OAEP_SCHEMES,
    split_wrapped_key,
    unwrap_key,
)
from skragent.releaser.job_io import describe_any_failure

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from cryptography import x509

    from skragent.attestation.token import AttestationToken
    from skragent.job import Form, KeyRequest
    from skragent.releaser.stopwatch import Stopwatch
    from skragent.releaser.tpm_worker import TpmWorker
    from skragent.releaser.vault_clients import Vaults
    from skragent.secretmem import Arena

_NONCE_BYTES = 16


@dataclass(frozen=True, slots=True)
class ReleaseStage:
    """What the keys of a job share. `run` may be called from any thread."""

    token: AttestationToken
    vaults: Vaults
    tpm_worker: TpmWorker
    arena: Arena
    roots: Sequence[x509.Certificate]
    now: datetime
    stopwatch: Stopwatch

    def run(self, number: int, key: KeyRequest) -> ReleasedKey | FailedKey:
        """Release one key. Its failure, even a bug, does not affect the other keys.

        Args:
            number: the key's place in the job and in the arena.
            key: the key.
        """
        try:
            return self._release(number, key)
        except Exception as error:  # noqa: BLE001 - the other keys of the job go on
            return FailedKey(alias=key.alias, failure=describe_any_failure(error))

    def _release(self, number: int, key: KeyRequest) -> ReleasedKey:
        request = ReleaseRequest(
            vault=key.vault,
            name=key.name,
            version=key.version,
            enc="RSA_AES_KEY_WRAP_256",
            nonce=secrets.token_hex(_NONCE_BYTES),
            wrapping_key_id=self.token.wrapping_key_id,
        )
        raw = self.vaults.release(request, self.token, key.identity)
        with self.stopwatch.step("release.verify"):
            wrapped = verify_release(raw, request, now=self.now, roots=self.roots)
        with self.stopwatch.step("release.unwrap"):
            rendered = self._unwrap(wrapped)
        try:
            forms = self._store(number, rendered)
        finally:
            rendered.wipe()
        return ReleasedKey(
            alias=key.alias,
            kid=wrapped.kid,
            version=wrapped.version,
            kty=wrapped.kty,
            fingerprint=rendered.fingerprint,
            public_jwk=rendered.public_jwk,
            public_pem=rendered.public_pem,
            forms=forms,
            repeats_nonce=wrapped.repeats_nonce,
            enabled=wrapped.enabled,
            not_before=wrapped.not_before,
            expires=wrapped.expires,
        )

    def _unwrap(self, wrapped: WrappedKey) -> RenderedKey:
        head, tail = split_wrapped_key(
            wrapped.ciphertext, self.tpm_worker.modulus_bytes
        )
        transfer_key = self.tpm_worker.decrypt(head, OAEP_SCHEMES[wrapped.enc])
        try:
            plaintext = unwrap_key(transfer_key, tail)
        finally:
            transfer_key[:] = bytes(len(transfer_key))
        try:
            return render_key(wrapped, plaintext)
        finally:
            plaintext[:] = bytes(len(plaintext))

    def _store(self, number: int, rendered: RenderedKey) -> dict[Form, Slice]:
        """Write the forms into this key's part of the arena, one after the other.

        Raises:
            MalformedReleaseError: the forms are too long.
        """
        size = sum(map(len, rendered.forms.values()))
        if size > ARENA_BYTES_PER_KEY:
            raise MalformedReleaseError(
                f"the key's forms have {size} bytes, and at most {ARENA_BYTES_PER_KEY}"
                " are kept of one key"
            )
        offset = number * ARENA_BYTES_PER_KEY
        forms: dict[Form, Slice] = {}
        for form, data in rendered.forms.items():
            self.arena.view(offset, len(data))[:] = data
            forms[form] = Slice(offset, len(data))
            offset += len(data)
        return forms
