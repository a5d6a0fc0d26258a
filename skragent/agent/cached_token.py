"""The attestation token that the agent caches, so that several jobs can use it.

These keys are released with the cached token: a key whose vault requested a later
attempt, a key that had to wait for the release rate limit, and a key that is new in the
configuration. A refresh always attests anew, so a token never releases a key twice. A
key that was denied needs a fresh token, too, because only that confirms a denial.
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
class CachedToken:
    """A token, and the `unique` field of its wrapping key's template."""

    attestation: Attestation
    began_at: float  # of its job, by boot time
    raw: str = field(repr=False)
    unique: memoryview = field(repr=False)  # in secret memory
    released: frozenset[str] = frozenset()  # the keys that were released with it


def cache_token(
    result: Result, arena: Arena, *, key_count: int, began_at: float
) -> CachedToken | None:
    """Copy the token of a job; None if the job did not attest.

    The `unique` field is copied to secret memory of its own, because the job's arena is
    wiped with the last key in it, and must not outlive a key that may not be held.

    Args:
        result: the part of the job's result with the attestation.
        arena: of the job.
        key_count: of the job.
        began_at: of the job, by boot time.
    """
    if result.attestation is None or not result.token:
        return None
    try:
        copy = create_arena(UNIQUE_BYTES)
    except SecretMemoryError:
        return None  # the next job attests
    copy.close_fd()
    unique = copy.view(0, UNIQUE_BYTES)
    unique[:] = arena.view(unique_offset(key_count), UNIQUE_BYTES)
    return CachedToken(
        attestation=result.attestation,
        began_at=began_at,
        raw=result.token,
        unique=unique,
    )


def add_released(token: CachedToken, aliases: Iterable[str]) -> CachedToken:
    """Add keys that were released with the token."""
    return dataclasses.replace(token, released=token.released | frozenset(aliases))


def can_release(
    token: CachedToken,
    aliases: Iterable[str],
    records: Mapping[str, KeyRecord],
    *,
    boottime: float,
) -> bool:
    """Return whether a job for these keys may use the token instead of attesting.

    Args:
        token: the cached token.
        aliases: of the keys.
        records: of all keys.
        boottime: now.
    """
    attestation = token.attestation
    life = due_times.token_life_seconds(attestation.issued_at, attestation.expires_at)
    refresh_at = token.began_at + due_times.REFRESH_FRACTION * life
    return boottime < refresh_at and not any(
        alias in token.released or records[alias].retry.denials for alias in aliases
    )
