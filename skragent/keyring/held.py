"""One key as it is held: its public facts, and views of its bytes in secret memory.

The releaser rendered every form; nothing here copies a byte of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from skragent.errors import ReleaserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skragent.job import Form, ReleasedKey
    from skragent.secretmem import Arena


@dataclass(frozen=True, slots=True, eq=False)
class HeldKey:
    """A released key. As long as it is referenced, so is its arena."""

    alias: str
    kid: str  # the vault's own versioned identifier
    version: str
    kty: Literal["RSA", "EC", "oct"]
    fingerprint: str  # SHA-256 (hex) of the SubjectPublicKeyInfo; empty for oct
    public_jwk: str
    public_pem: str
    forms: Mapping[Form, memoryview]
    released_at: float  # seconds since 1970
    not_before: float | None = None
    not_after: float | None = None

    def wipe(self) -> None:
        """Zero every form at once, also under the eyes of whoever has a view."""
        for view in self.forms.values():
            view[:] = bytes(len(view))


def hold_key(released: ReleasedKey, arena: Arena, *, released_at: float) -> HeldKey:
    """Take a key of a job's result into our hands.

    Raises:
        ReleaserError: releaser.garbage where a form lies outside of the arena.
    """
    try:
        forms = {
            form: arena.view(piece.offset, piece.length)
            for form, piece in released.forms.items()
        }
    except ValueError as error:
        raise ReleaserError(
            f"key {released.alias}: a form lies outside of the arena",
            code="releaser.garbage",
        ) from error
    return HeldKey(
        alias=released.alias,
        kid=released.kid,
        version=released.version,
        kty=released.kty,
        fingerprint=released.fingerprint,
        public_jwk=released.public_jwk,
        public_pem=released.public_pem,
        forms=forms,
        released_at=released_at,
        not_before=released.not_before,
        not_after=released.expires,
    )
