"""The documents of responses, and headers that describe keys, without key bytes.

The schemas of openapi.json come from the structures.
"""

from __future__ import annotations

import hashlib
import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from skragent.keyring import KeyState
from skragent.observe import names
from skragent.serving.access import Operation  # noqa: TC001 - schemas need it
from skragent.serving.http.response import JSON, Problem, Response, to_json
from skragent.serving.negotiation import MEDIA_TYPES, matches_tag

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Container, Mapping, Sequence

    from skragent.job import Form
    from skragent.keyring import Entry, HeldKey
    from skragent.serving.http.interfaces import Counter

# Members with the wall time of a planned event. The agent plans with the boot time.
_COMPUTED: Final = frozenset({"due_at", "wipe_at"})


class KeyFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The facts about a key that each of its callers may know."""

    name: str
    state: KeyState
    version: Annotated[
        str | None,
        Meta(
            description="null if the agent does not hold the key, like the following"
            " members."
        ),
    ]
    previous_version: Annotated[
        str | None,
        Meta(
            description="The version before, if the agent still serves it (`version`)."
        ),
    ]
    kty: Literal["RSA", "EC", "oct"] | None
    fingerprint: Annotated[
        str | None,
        Meta(description="SHA-256 of the SubjectPublicKeyInfo; null for oct keys."),
    ]
    formats: Annotated[
        tuple[str, ...],
        Meta(
            description="The media types of the key; empty if the caller may use the"
            " public half only."
        ),
    ]
    released_at: Annotated[
        float | None, Meta(description="The time of the release: seconds since 1970.")
    ]
    not_after: Annotated[
        float | None,
        Meta(description="The expiry of the key, if it has one: seconds since 1970."),
    ]


class Key(KeyFacts, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A key, as one caller sees it."""

    operations: Annotated[
        tuple[Operation, ...],
        Meta(
            description="The operations that the caller may use: get the key, or its"
            " public half."
        ),
    ]


class KeyList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The keys that the caller may use."""

    keys: tuple[Key, ...]


class Caller(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The identity of the caller, as the kernel reports it."""

    uid: int
    gid: int
    groups: Annotated[
        tuple[int, ...],
        Meta(
            description="Supplementary groups. A caller in more than 256 groups has"
            " only those of rules."
        ),
    ]
    pid: int
    unit: Annotated[
        str | None,
        Meta(
            description="The systemd unit; null if there is none, or no rule has a"
            " unit."
        ),
    ]
    user_unit: Annotated[
        str | None,
        Meta(
            description="The unit of the user manager, inside user@UID.service. The"
            " user controls it, so rules ignore it."
        ),
    ]


class Status(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The keys that the caller may use, and the identity of the caller."""

    version: Annotated[str, Meta(description="The version of the agent.")]
    state: Annotated[
        Literal["ready", "degraded", "none"],
        Meta(
            description="ready: all keys of the caller are current; none: the caller"
            " has no key."
        ),
    ]
    you: Caller
    keys: tuple[Key, ...]


class Health(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The response of an agent that serves requests."""

    status: Literal["ok"]


class KeyProblem(Problem, frozen=True, kw_only=True):
    """A problem document about one key: RFC 9457."""

    state: KeyState | UnsetType = UNSET
    last_failure: Annotated[
        str | UnsetType | None,
        Meta(description="The error code of the last attempt to release the key."),
    ] = UNSET
    formats: Annotated[
        tuple[str, ...] | UnsetType, Meta(description="The media types of the key.")
    ] = UNSET


HEALTHY: Final = Health("ok")


def describe_key(entry: Entry) -> KeyFacts:
    """Return the facts about a key that each of its callers may know."""
    key = entry.key
    return KeyFacts(
        name=entry.alias,
        state=entry.state,
        version=key.version if key else None,
        previous_version=entry.previous.version if entry.previous else None,
        kty=key.kty if key else None,
        fingerprint=(key.fingerprint or None) if key else None,
        formats=media_types(key.forms) if key else (),
        released_at=key.released_at if key else None,
        not_after=key.not_after if key else None,
    )


def describe_key_for(operations: tuple[Operation, ...], entry: Entry) -> Key:
    """Return the facts about a key for a caller that may use these operations."""
    facts = msgspec.structs.asdict(describe_key(entry))
    if "get" not in operations:
        facts["formats"] = ()
    return Key(**facts, operations=operations)


def media_types(forms: Container[Form]) -> tuple[str, ...]:
    """Return the media types of forms."""
    return tuple(media for form, media in MEDIA_TYPES.items() if form in forms)


def overall_state(
    entries: Collection[Entry],
) -> Literal["ready", "degraded", "none"]:
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
    status: Status | Mapping[str, Any],
    if_none_match: str,
    *,
    is_final: bool,
    counter_of: Callable[[str], Counter],
) -> Response | None:
    """Return the response to GET /v1/status; None while the caller can wait.

    The entity tag is a digest of `state` and `keys`. So facts that the caller must not
    see do not change it. Times that are computed anew for each request do not, either.
    """
    document = msgspec.to_builtins(status)
    tag = _digest(document["state"], document["keys"])
    is_known = matches_tag(if_none_match, tag)
    if is_known and not is_final:
        return None
    return Response(
        HTTPStatus.NOT_MODIFIED if is_known else HTTPStatus.OK,
        {"Content-Type": JSON, "Cache-Control": "no-store", "ETag": f'"{tag}"'},
        b"" if is_known else to_json(document),
        counter=counter_of(names.CODE_NOT_MODIFIED if is_known else names.CODE_OK),
    )


def _digest(state: str, keys: Sequence[Mapping[str, object]]) -> str:
    stable = [{k: v for k, v in key.items() if k not in _COMPUTED} for key in keys]
    return hashlib.sha256(json.dumps([state, stable]).encode()).hexdigest()[:32]
