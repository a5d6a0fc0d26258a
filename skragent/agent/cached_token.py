"""The attestation token that is kept, so that one attestation serves all releases due.

A key whose vault said "later", keys that take turns at their vault, and keys that are
new in the configuration are released with the token that there is. It is never used
again for a key that it released already, for that one's refresh is to attest; nor for
one that was denied, which takes a fresh token to confirm.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from skragent.agent import due_times
from skragent.errors import SecretMemoryError
from skragent.job import UNIQUE_BYTES, unique_offset
from skragent.secretmem import create_arena

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from skragent.agent.key_records import KeyRecord
    from skragent.job import Attestation, Result
    from skragent.secretmem import Arena


@dataclass(frozen=True, slots=True)
class HeldToken:
    """A token, and what it takes to use it again."""

    attestation: Attestation
    began_at: float  # boot time of its job
    raw: str = field(repr=False)
    unique: memoryview = field(repr=False)  # in secret memory
    released: frozenset[str] = frozenset()  # the keys that it brought


def keep_token(
    result: Result, arena: Arena, *, keys: int, began_at: float
) -> HeldToken | None:
    """Keep the token of a job that attested, if it is of use.

    What it takes is kept in memory of its own: the job's goes with its last key, and
    keys that came with it and may not be held are not to outlive it.
    """
    if result.attestation is None or not result.token:
        return None
    try:
        own = create_arena(UNIQUE_BYTES)
    except SecretMemoryError:
        return None  # jobs to come attest
    own.close_fd()
    unique = own.view(0, UNIQUE_BYTES)
    unique[:] = arena.view(unique_offset(keys), UNIQUE_BYTES)
    return HeldToken(
        attestation=result.attestation,
        began_at=began_at,
        raw=result.token,
        unique=unique,
    )


def note_released(token: HeldToken, aliases: Iterable[str]) -> HeldToken:
    """Note the keys that it brought."""
    return dataclasses.replace(token, released=token.released | frozenset(aliases))


def may_serve(
    token: HeldToken,
    aliases: Iterable[str],
    lives: Mapping[str, KeyRecord],
    *,
    boottime: float,
    fraction: float,
) -> bool:
    """Tell whether a job for these keys can do without an attestation of its own.

    Args:
        token: that there is.
        aliases: of the keys.
        lives: of all keys.
        boottime: now.
        fraction: of a token's life, after which it is renewed.
    """
    attestation = token.attestation
    life = due_times.token_life_seconds(attestation.issued_at, attestation.expires_at)
    return boottime < token.began_at + fraction * life and not any(
        alias in token.released or lives[alias].failures.denials for alias in aliases
    )
