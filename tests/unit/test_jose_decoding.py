"""Typed JSON, as it is read from services."""

from __future__ import annotations

import pytest

from skragent.jose import decode_json


@pytest.mark.parametrize("data", [b"", b"[]", b'{"a": "x"}', b"\xff", b"[" * 5000])
def test_what_is_not_of_the_shape_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="unexpected JSON"):
        decode_json(data, dict[str, int])


def test_what_is_of_the_shape_is_read_the_first_time_and_later() -> None:
    for i in range(2):
        assert decode_json(b'{"a": %d}' % i, dict[str, int]) == {"a": i}
