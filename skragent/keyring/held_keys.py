"""One held key: its public facts, and its bytes in an arena of its own.

The releaser renders each form of a key into the job's arena. This module copies the
forms to a second arena, which holds one version of one key. So the agent can wipe each
key alone, and systemd can keep it for the next agent: `skragent.agent.preserved_keys`.
The arena has this layout:

    8 bytes   MAGIC, the format
    4 bytes   length of the record, little-endian
    n bytes   the record: `PreservedRecord` as JSON, public facts only
    ...       the forms, at the record's slices
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, get_args

import msgspec

from skragent.errors import ReleaserError, SecretMemoryError
from skragent.job import ALIAS_PATTERN, Form, ReleasedKey, Slice
from skragent.secretmem import CONTENT, create_arena

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skragent.secretmem import Arena

MAGIC: Final = b"skrkey\x00\x01"
_LENGTH_BYTES: Final = 4
# Public parts of RSA-4096 in JWK and PEM have 2.5 kB.
MAX_RECORD_BYTES: Final = 64 * 1024

_FORMS: Final = frozenset(get_args(Form))
_VERSION: Final = re.compile(r"[0-9a-f]{32}")
_ALIAS: Final = re.compile(ALIAS_PATTERN)
_FINGERPRINT: Final = re.compile(r"([0-9a-f]{64})?")


class PreservedRecord(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """The public facts of a held key, stored in its arena."""

    vault: str  # the vault's URL in the configuration
    name: str  # the key's name in the vault
    key: ReleasedKey  # with slices of this arena
    released_at: float  # seconds since 1970
    began_at: float  # boot time of the job that released it
    # Boot time until which the previous version is served, too; None: not at all.
    overlap_until: float | None = None
    stale_at: float  # boot time


# After a rollback, the record may come from a newer agent: unknown members and forms
# are ignored.
class _StoredSlice(Slice, frozen=True, forbid_unknown_fields=False):
    pass


class _StoredKey(ReleasedKey, frozen=True, forbid_unknown_fields=False, kw_only=True):
    forms: dict[str, _StoredSlice]  # type: ignore[assignment] # unknown forms, too


class _StoredRecord(
    PreservedRecord, frozen=True, forbid_unknown_fields=False, kw_only=True
):
    key: _StoredKey


@dataclass(frozen=True, slots=True, eq=False)
class HeldKey:
    """A released key with a reference to its arena."""

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
    repeats_nonce: bool = True  # the signed release has the request's nonce
    memory: Arena | None = None  # with the forms; None in tests of serving

    def wipe(self) -> None:
        """Zero the key at once, also in views that a response still reads."""
        if self.memory is not None:
            self.memory.wipe()
            return
        for view in self.forms.values():
            view[:] = bytes(len(view))


def hold_key(record: PreservedRecord, arena: Arena) -> HeldKey:
    """Copy a key of a job's result into an arena of its own.

    Args:
        record: the facts, with slices of `arena`.
        arena: the job's arena.

    Returns:
        the key; its arena's descriptor is still open.

    Raises:
        ReleaserError: releaser.garbage: a form is outside the arena.
        SecretMemoryError: the arena cannot be created.
    """
    released = record.key
    try:
        views = {
            form: arena.view(piece.offset, piece.length)
            for form, piece in released.forms.items()
        }
    except ValueError as error:
        raise ReleaserError(
            f"key {released.alias}: a form is outside the arena",
            code="releaser.garbage",
        ) from error
    head, slices = _encode_head(record, {form: len(v) for form, v in views.items()})
    memory = create_arena(len(head) + sum(map(len, views.values())))
    memory.view(0, len(head))[:] = head
    for form, piece in slices.items():
        memory.view(piece.offset, piece.length)[:] = views[form]
    key = msgspec.structs.replace(released, forms=slices)
    return _make(msgspec.structs.replace(record, key=key), memory)


def read_held_key(memory: Arena) -> tuple[PreservedRecord, HeldKey]:
    """Return the key that an earlier agent held in this arena.

    Raises:
        SecretMemoryError: memory.content: the arena has no key, or another format.
    """
    try:
        record = _read_record(memory)
        return record, _make(record, memory)
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise SecretMemoryError(
            f"the memory of an earlier agent cannot be used: {error}",
            code=CONTENT,
            hint="No action is needed: the agent releases the keys again.",
        ) from error


def _read_record(memory: Arena) -> PreservedRecord:
    start = len(MAGIC) + _LENGTH_BYTES
    if bytes(memory.view(0, len(MAGIC))) != MAGIC:
        raise ValueError("it does not begin with the format of a held key")
    length = int.from_bytes(memory.view(len(MAGIC), _LENGTH_BYTES), "little")
    if length > MAX_RECORD_BYTES:
        raise ValueError(f"a record of {length} bytes")
    text = bytes(memory.view(start, length))
    record = _as_known(msgspec.json.decode(text, type=_StoredRecord))
    _judge(record.key)
    pieces = record.key.forms.values()
    if not pieces or any(piece.offset < start + length for piece in pieces):
        raise ValueError("it has no forms, or a form overlaps the record")
    return record


def _as_known(stored: _StoredRecord) -> PreservedRecord:
    """Remove the members and forms that this agent does not know."""
    facts = msgspec.structs.asdict(stored.key)
    forms = {
        form: Slice(piece.offset, piece.length)
        for form, piece in stored.key.forms.items()
        if form in _FORMS
    }
    key = ReleasedKey(**(facts | {"forms": forms}))
    return PreservedRecord(**(msgspec.structs.asdict(stored) | {"key": key}))


def _judge(key: ReleasedKey) -> None:
    """Check the texts that the agent puts into headers, labels and log lines.

    Raises:
        ValueError: a text does not have the expected syntax.
    """
    if not _VERSION.fullmatch(key.version):
        raise ValueError("a version that is not 32 hexadecimal digits")
    if not _ALIAS.fullmatch(key.alias):
        raise ValueError("a name that a configuration cannot have")
    if not (key.kid.isascii() and key.kid.isprintable()):
        raise ValueError("a key identifier that is not a URL")
    if not _FINGERPRINT.fullmatch(key.fingerprint):
        raise ValueError("a fingerprint that is not SHA-256")


def _encode_head(
    record: PreservedRecord, lengths: Mapping[Form, int]
) -> tuple[bytes, dict[Form, Slice]]:
    """Return the bytes before the forms; their length depends on the offsets."""
    offset = 0
    while True:
        slices: dict[Form, Slice] = {}
        at = offset
        for form, length in lengths.items():
            slices[form] = Slice(at, length)
            at += length
        key = msgspec.structs.replace(record.key, forms=slices)
        text = msgspec.json.encode(msgspec.structs.replace(record, key=key))
        head = MAGIC + len(text).to_bytes(_LENGTH_BYTES, "little") + text
        if len(head) <= offset:
            return head.ljust(offset, b"\0"), slices
        offset = len(head)


def _make(record: PreservedRecord, memory: Arena) -> HeldKey:
    key = record.key
    return HeldKey(
        alias=key.alias,
        kid=key.kid,
        version=key.version,
        kty=key.kty,
        fingerprint=key.fingerprint,
        public_jwk=key.public_jwk,
        public_pem=key.public_pem,
        forms={
            form: memory.view(piece.offset, piece.length)
            for form, piece in key.forms.items()
        },
        released_at=record.released_at,
        not_before=key.not_before,
        not_after=key.expires,
        repeats_nonce=key.repeats_nonce,
        memory=memory,
    )
