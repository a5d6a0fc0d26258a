"""A held key and its own secret memory."""

from __future__ import annotations

import os
from typing import Any

import msgspec
import pytest
from support.agent import released_key

from skragent.errors import ReleaserError, SecretMemoryError
from skragent.job import Slice
from skragent.keyring import HeldKey, PreservedRecord, hold_key, read_held_key
from skragent.keyring.held_keys import MAGIC
from skragent.secretmem import Arena, adopt_arena, create_arena

DER = bytes(range(200))
RAW = b"r" * 33


def record(**changes: object) -> PreservedRecord:
    values: dict[str, Any] = {
        "expires": 9.0,
        "forms": {"der": Slice(10, 200), "raw": Slice(300, 33)},
    }
    return PreservedRecord(
        vault="https://v.vault.azure.net",
        name="disk",
        key=released_key(**(values | changes)),
        released_at=5.0,
        began_at=100.0,
        stale_at=200.0,
        overlap_until=None,
    )


@pytest.fixture
def arena() -> Arena:
    """A job's secret memory with two forms of a key in it."""
    arena = create_arena(4096)
    arena.close_fd()
    arena.view(10, 200)[:] = DER
    arena.view(300, 33)[:] = RAW
    return arena


def contents(key: HeldKey) -> dict[str, bytes]:
    return {form: bytes(view) for form, view in key.forms.items()}


def memory_of(key: HeldKey) -> Arena:
    assert key.memory is not None
    return key.memory


def test_a_released_key_is_copied_into_memory_of_its_own(arena: Arena) -> None:
    key = hold_key(record(), arena)
    arena.wipe()
    assert contents(key) == {"der": DER, "raw": RAW}
    assert (key.alias, key.released_at, key.not_after) == ("disk", 5.0, 9.0)


@pytest.mark.parametrize(("offset", "length"), [(4096, 1), (-1, 2), (0, 4097), (5, -1)])
def test_a_form_outside_of_the_arena_is_refused(
    arena: Arena, offset: int, length: int
) -> None:
    with pytest.raises(ReleaserError) as caught:
        hold_key(record(forms={"raw": Slice(offset, length)}), arena)
    assert caught.value.code == "releaser.garbage"


def test_a_wiped_key_leaves_nothing_in_its_memory(arena: Arena) -> None:
    key = hold_key(record(), arena)
    key.wipe()
    memory = memory_of(key)
    assert not any(memory.view(0, memory.size))


def test_a_key_is_read_again_from_its_memory(arena: Arena) -> None:
    key = hold_key(record(), arena)
    again, read = read_held_key(adopt_arena(os.dup(memory_of(key).fd)))
    assert contents(read) == contents(key)
    assert (again.vault, again.name, again.stale_at) == (
        *("https://v.vault.azure.net", "disk"),
        200.0,
    )
    assert (read.kid, read.version, read.not_after) == (
        *(key.kid, key.version, key.not_after),
    )


def test_wiped_memory_has_no_key(arena: Arena) -> None:
    key = hold_key(record(), arena)
    key.wipe()
    with pytest.raises(SecretMemoryError) as caught:
        read_held_key(memory_of(key))
    assert caught.value.code == "memory.content"


def write(data: bytes) -> Arena:
    arena = create_arena(max(1, len(data)))
    arena.close_fd()
    arena.view(0, len(data))[:] = data
    return arena


def framed(value: object) -> bytes:
    text = msgspec.json.encode(value)
    return MAGIC + len(text).to_bytes(4, "little") + text


@pytest.mark.parametrize(
    "data",
    [
        b"",
        MAGIC,
        MAGIC + b"\xff\xff\xff\xff",
        MAGIC + b"\x00\xff\x00\x00",
        framed([]),
        framed({}),
        framed(record(forms={})),
        framed(record(forms={"raw": Slice(0, 32)})),
        framed(record(forms={"raw": Slice(2**40, 32)})),
        framed(record(forms={"raw": Slice(600, -1)})),
        framed(record()).replace(MAGIC, b"skrkey\x00\x02"),
    ],
    ids=range(11),
)
def test_a_memory_with_other_content_is_refused(data: bytes) -> None:
    with pytest.raises(SecretMemoryError) as caught:
        read_held_key(write(data))
    assert caught.value.code == "memory.content"


def preserved(value: object) -> Arena:
    """Memory of an earlier agent with this record and a form at 2000."""
    data = framed(value)
    memory = write(data.ljust(4096, b"\0"))
    memory.view(2000, 33)[:] = RAW
    return memory


PRESERVED = {"forms": {"raw": Slice(2000, 33)}}


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "a\r\nX: y€"},
        {"version": "0" * 31},
        {"alias": "../db"},
        {"alias": ""},
        {"kid": "https://v\n/keys/db"},
        {"fingerprint": "x" * 64},
    ],
)
def test_a_record_with_a_text_that_no_agent_wrote_is_refused(
    changes: dict[str, object],
) -> None:
    read_held_key(preserved(record(**PRESERVED)))
    with pytest.raises(SecretMemoryError) as caught:
        read_held_key(preserved(record(**(PRESERVED | changes))))
    assert caught.value.code == "memory.content"


def test_what_a_newer_agent_wrote_besides_is_ignored() -> None:
    """As after a rollback of an upgrade."""
    value = msgspec.to_builtins(record(**PRESERVED))
    value["new"] = 1
    value["key"]["is_hsm"] = True
    value["key"]["forms"]["raw"]["kind"] = "x"
    value["key"]["forms"]["cbor"] = {"offset": 3000, "length": 9}
    read, key = read_held_key(preserved(value))
    assert read == record(**PRESERVED)
    assert contents(key) == {"raw": RAW}


def test_only_secret_memory_is_adopted() -> None:
    reader, writer = os.pipe()
    os.close(writer)
    memfd = os.memfd_create("x")
    os.ftruncate(memfd, 4096)
    for fd in (reader, memfd):
        with pytest.raises(SecretMemoryError) as caught:
            adopt_arena(fd)
        assert caught.value.code == "memory.content"
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
