"""The JSON documents and headers that tell of keys; never a key byte. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skragent.keyring import KeyState
from skragent.serving.negotiation import MEDIA_TYPES

if TYPE_CHECKING:
    from collections.abc import Collection

    from skragent.keyring import Entry, HeldKey


def describe_key(entry: Entry) -> dict[str, object]:
    """Tell of one key what whoever may have it may know."""
    key = entry.key
    return {
        "name": entry.alias,
        "state": entry.state.value,
        "version": key.version if key else None,
        "previous_version": entry.previous.version if entry.previous else None,
        "kty": key.kty if key else None,
        "fingerprint": (key.fingerprint or None) if key else None,
        "formats": media_types(key) if key else [],
        "released_at": key.released_at if key else None,
        "not_after": key.not_after if key else None,
    }


def media_types(key: HeldKey) -> list[str]:
    """List the forms that a key is held in."""
    return [media for form, media in MEDIA_TYPES.items() if form in key.forms]


def overall_state(entries: Collection[Entry]) -> str:
    """Say in one word how these keys are: `ready` where all of them are current."""
    if not entries:
        return "none"
    is_ready = all(entry.state is KeyState.CURRENT for entry in entries)
    return "ready" if is_ready else "degraded"


def key_headers(
    entry: Entry, key: HeldKey, media_type: str, now: float
) -> dict[str, str]:
    """Tell version, age and staleness of what is sent.

    `Age` is RFC 9111 §5.1's, counted from the release.
    """
    return {
        "Content-Type": media_type,
        "Cache-Control": "no-store",
        "ETag": f'"{key.version}"',
        "Vary": "Accept",
        "Age": str(max(0, int(now - key.released_at))),
        "Skragent-State": entry.state.value,
        "Skragent-Released-At": str(int(key.released_at)),
    }
