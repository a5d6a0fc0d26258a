"""Any bytes as JSON: every decoder returns a value of its type or a ValueError."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skragent.agent.releaser_output import ResultReader
from skragent.attestation.guest import parse_guest_response
from skragent.errors import AgentError
from skragent.evidence.ak_certificate import parse_renewal_response
from skragent.job import Result
from skragent.jose import decode_json

SETTINGS = settings(max_examples=300)


class Shape(msgspec.Struct):
    """A member of each kind."""

    text: str = ""
    number: int = 0
    real: float | None = None
    texts: list[str] = []
    anything: Any = None
    inner: dict[str, Any] = {}


KINDS: list[Any] = [Shape, dict[str, Any], list[Shape], Any]
ODD = [
    *(b"1e999", b"-0", b"9" * 5000, b'"\\ud800"', b"\xff", b"\xed\xa0\x80", b"NaN"),
    *(b"null", b'"\\u0000"', b"\x00", b"1e-999", b"[" * 700, b'{"anything":' * 700),
    *(b'{"text":5}', b'{"number":1.5}', b'{"texts":[null]}', b'{"number":' + b"9" * 30),
]


@st.composite
def bent(draw: st.DrawFn) -> bytes:
    """Give JSON that is nearly what is expected."""
    shape = {"text": "x", "number": 5, "real": 0.5, "texts": ["a"], "inner": {"a": 1}}
    data = bytearray(json.dumps(shape).encode())
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(data)))
        data[place : place + draw(st.integers(0, 4))] = draw(
            st.sampled_from(ODD) | st.binary(max_size=3)
        )
    return bytes(data)


def feed(data: bytes) -> None:
    for kind in KINDS:
        with contextlib.suppress(ValueError):
            decode_json(data, kind)
    for parse in (parse_renewal_response, parse_guest_response):
        with contextlib.suppress(AgentError):
            parse(data)
    with contextlib.suppress(AgentError):
        reader = ResultReader(frozenset({"db"}))
        reader.feed(data)
        reader.finish()


@SETTINGS
@given(data=st.binary(max_size=300) | bent())
def test_any_bytes_are_a_value_or_an_error_of_ours(data: bytes) -> None:
    feed(data)


@pytest.mark.parametrize("data", [*ODD, b"[" * 200_000, b'{"inner":' * 200_000])
def test_odd_json_is_a_value_or_an_error_of_ours(data: bytes) -> None:
    feed(data)


def test_a_result_of_the_releaser_is_read_from_its_json() -> None:
    """The parser that the tests above feed does not refuse everything."""
    raw = msgspec.json.encode(Result(versions={"db": ""}))
    reader = ResultReader(frozenset({"db"}), purpose="check")
    reader.feed(raw)
    assert reader.finish().versions
