"""Documents and headers that describe keys. They never contain key bytes."""

from __future__ import annotations

import hashlib
import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from skragent.keyring import KeyState
from skragent.observe import names
from skragent.serving.http.response import JSON, Response
from skragent.serving.negotiation import MEDIA_TYPES, matches_tag

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from skragent.keyring import Entry, HeldKey
    from skragent.serving.http.interfaces import Counter

# Members with the wall time of a planned event. The agent plans with the boot time.
_COMPUTED: Final = frozenset({"due_at", "wipe_at"})


def describe_key(entry: Entry) -> dict[str, object]:
    """Return the facts about a key that each of its callers may know."""
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
    """Return the media types of the forms that a key has."""
    return [media for form, media in MEDIA_TYPES.items() if form in key.forms]


def overall_state(entries: Collection[Entry]) -> str:
    """Return `ready` if all keys are current, else `degraded`; `none` without keys."""
    if not entries:
        return "none"
    is_ready = all(entry.state is KeyState.CURRENT for entry in entries)
    return "ready" if is_ready else "degraded"


def key_headers(
    entry: Entry, key: HeldKey, media_type: str, now: float
) -> dict[str, str]:
    """Return the headers with version, age and state of a key.

    `Age` is that of RFC 9111 §5.1, counted from the release.
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


def status_response(
    document: Mapping[str, Any],
    if_none_match: str,
    *,
    is_final: bool,
    counter_of: Callable[[str], Counter],
) -> Response | None:
    """Return the response to GET /v1/status; None while the caller can wait.

    The entity tag is a digest of `state` and `keys`. So facts that the caller must not
    see do not change it. Times that are computed anew for each request do not, either.
    """
    tag = _digest(document["state"], document["keys"])
    is_known = matches_tag(if_none_match, tag)
    if is_known and not is_final:
        return None
    return Response(
        HTTPStatus.NOT_MODIFIED if is_known else HTTPStatus.OK,
        {"Content-Type": JSON, "Cache-Control": "no-store", "ETag": f'"{tag}"'},
        b"" if is_known else json.dumps(document).encode(),
        counter=counter_of(names.CODE_NOT_MODIFIED if is_known else names.CODE_OK),
    )


def _digest(state: str, keys: Sequence[Mapping[str, object]]) -> str:
    stable = [{k: v for k, v in key.items() if k not in _COMPUTED} for key in keys]
    return hashlib.sha256(json.dumps([state, stable]).encode()).hexdigest()[:32]
