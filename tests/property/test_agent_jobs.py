from __future__ import annotations

import contextlib
import itertools

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from support.agent import attestation, released_key

from skragent.agent.releaser_log import log_lines
from skragent.agent.releaser_output import ResultReader
from skragent.errors import ReleaserError
from skragent.job import Result, Slice, unique_offset

ALIASES = frozenset({"disk"})
KEYS_BYTES = unique_offset(1)
GOOD = msgspec.json.encode(
    Result(attestation=attestation(), token="t", released=(released_key("disk"),))
)


def parse(raw: bytes) -> Result:
    reader = ResultReader(ALIASES)
    reader.feed(raw)
    return reader.finish()


@given(st.binary(max_size=200))
def test_any_bytes_are_a_result_or_garbage(raw: bytes) -> None:
    with contextlib.suppress(ReleaserError):
        parse(raw)


@given(at=st.integers(0, len(GOOD) - 1), byte=st.integers(0, 255))
def test_any_changed_byte_leaves_a_result_or_garbage(at: int, byte: int) -> None:
    raw = GOOD[:at] + bytes([byte]) + GOOD[at + 1 :]
    with contextlib.suppress(ReleaserError):
        parse(raw)


@given(cuts=st.lists(st.integers(0, len(GOOD)), max_size=5))
def test_a_result_is_the_same_however_its_bytes_are_cut(cuts: list[int]) -> None:
    reader = ResultReader(ALIASES)
    for begin, end in itertools.pairwise([0, *sorted(cuts), len(GOOD)]):
        reader.feed(GOOD[begin:end])
    assert reader.finish() == parse(GOOD)


@given(st.lists(st.tuples(st.integers(-5, 20000), st.integers(-5, 20000)), max_size=3))
def test_believed_slices_lie_in_the_arena_and_apart(
    places: list[tuple[int, int]],
) -> None:
    names = ("jwk", "pem", "der")
    forms = {n: Slice(*place) for n, place in zip(names, places, strict=False)}
    result = Result(
        attestation=attestation(),
        token="t",
        released=(released_key("disk", forms=forms),),
    )
    try:
        parse(msgspec.json.encode(result))
    except ReleaserError:
        return
    touched = [i for offset, size in places for i in range(offset, offset + size)]
    assert touched
    assert len(touched) == len(set(touched))
    assert min(touched) >= 0
    assert max(touched) < KEYS_BYTES


@given(st.binary(max_size=300))
def test_every_logged_line_is_one_printable_line(raw: bytes) -> None:
    assert all(line.isprintable() and line.isascii() for line in log_lines(raw))
