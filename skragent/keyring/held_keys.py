"""One key as it is held: its public facts, and its bytes in secret memory of its own.

The releaser rendered every form into the job's memory; here they are copied, from
secret memory to secret memory, into an arena that holds this version of this key and
nothing else. So it can be wiped alone, and it can outlive the agent's process: see
`skragent.agent.preserved_keys`. The arena begins with a record that says what is in it:

    8 bytes   MAGIC, which names the format
    4 bytes   length of the record, little-endian
    n bytes   the record, `PreservedRecord` as JSON: public facts only
    ...       the forms, where the record's slices say
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, get_args

import msgspec

from skragent.errors import ReleaserError, SecretMemoryError
from skragent.job import Form, ReleasedKey, Slice
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
_ALIAS: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_FINGERPRINT: Final = re.compile(r"([0-9a-f]{64})?")


class PreservedRecord(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """What is known of a held key, as it stands in its memory."""

    vault: str  # as the configuration names it
    name: str  # in the vault
    key: ReleasedKey  # its slices are of this memory
    released_at: float  # seconds since 1970
    began_at: float  # boot time of the job that released it
    # Boot time until which the version before is served as well; None: not at all.
    overlap_until: float | None = None
    stale_at: float  # boot time


# What is read back may be of a newer agent, before a rollback: members and forms that
# this one does not know are ignored.
class _StoredSlice(Slice, frozen=True, forbid_unknown_fields=False):
    pass


class _StoredKey(ReleasedKey, frozen=True, forbid_unknown_fields=False, kw_only=True):
    forms: dict[str, _StoredSlice]  # type: ignore[assignment] # of a newer agent, too


class _StoredRecord(
    PreservedRecord, frozen=True, forbid_unknown_fields=False, kw_only=True
):
    key: _StoredKey


@dataclass(frozen=True, slots=True, eq=False)
class HeldKey:
    """A released key. As long as it is referenced, so is its memory."""

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
    repeats_nonce: bool = True  # the signed release repeats the nonce of its request
    memory: Arena | None = None  # that the forms are in; None in tests of serving

    def wipe(self) -> None:
        """Zero everything at once, also under the eyes of a reader that has a view."""
        if self.memory is not None:
            self.memory.wipe()
            return
        for view in self.forms.values():
            view[:] = bytes(len(view))


def hold_key(record: PreservedRecord, arena: Arena) -> HeldKey:
    """Copy a key of a job's result into memory of its own.

    Args:
        record: with slices of `arena`.
        arena: the job's.

    Returns:
        the key; its memory's descriptor is still open.

    Raises:
        ReleaserError: releaser.garbage: a form lies outside of the arena.
        SecretMemoryError: there is no memory for it.
    """
    released = record.key
    try:
        views = {
            form: arena.view(piece.offset, piece.length)
            for form, piece in released.forms.items()
        }
    except ValueError as error:
        raise ReleaserError(
            f"key {released.alias}: a form lies outside of the arena",
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
    """Read a key that an earlier agent held in this memory.

    Raises:
        SecretMemoryError: memory.content: it holds no key, or in another format.
    """
    try:
        record = _read_record(memory)
        return record, _make(record, memory)
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise SecretMemoryError(
            f"the memory of an earlier agent cannot be used: {error}",
            code=CONTENT,
            hint="The keys are released again.",
        ) from error


def _read_record(memory: Arena) -> PreservedRecord:
    start = len(MAGIC) + _LENGTH_BYTES
    if bytes(memory.view(0, len(MAGIC))) != MAGIC:
        raise ValueError("it does not begin as a held key does")
    length = int.from_bytes(memory.view(len(MAGIC), _LENGTH_BYTES), "little")
    if length > MAX_RECORD_BYTES:
        raise ValueError(f"a record of {length} bytes")
    text = bytes(memory.view(start, length))
    record = _as_known(msgspec.json.decode(text, type=_StoredRecord))
    _judge(record.key)
    pieces = record.key.forms.values()
    if not pieces or any(piece.offset < start + length for piece in pieces):
        raise ValueError("it has no forms, or one that lies in the record")
    return record


def _as_known(stored: _StoredRecord) -> PreservedRecord:
    """Leave out what this agent does not know."""
    facts = msgspec.structs.asdict(stored.key)
    forms = {
        form: Slice(piece.offset, piece.length)
        for form, piece in stored.key.forms.items()
        if form in _FORMS
    }
    key = ReleasedKey(**(facts | {"forms": forms}))
    return PreservedRecord(**(msgspec.structs.asdict(stored) | {"key": key}))


def _judge(key: ReleasedKey) -> None:
    """Refuse texts that would reach headers, labels and log lines as they are.

    Raises:
        ValueError: one has another form than this agent's own.
    """
    if not _VERSION.fullmatch(key.version):
        raise ValueError("a version that is not 32 hexadecimal digits")
    if not _ALIAS.fullmatch(key.alias):
        raise ValueError("a name that no configuration can have")
    if not (key.kid.isascii() and key.kid.isprintable()):
        raise ValueError("a key identifier that is no URL")
    if not _FINGERPRINT.fullmatch(key.fingerprint):
        raise ValueError("a fingerprint that is not SHA-256")


def _encode_head(
    record: PreservedRecord, lengths: Mapping[Form, int]
) -> tuple[bytes, dict[Form, Slice]]:
    """Write what stands before the forms; its own length depends on the offsets."""
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
