"""Typed JSON of services."""

from __future__ import annotations

import pytest

from skragent.jose import decode_json


@pytest.mark.parametrize("data", [b"", b"[]", b'{"a": "x"}', b"\xff", b"[" * 5000])
def test_json_of_another_shape_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="unexpected JSON"):
        decode_json(data, dict[str, int])


def test_json_of_the_shape_is_decoded_every_time() -> None:
    for i in range(2):
        assert decode_json(b'{"a": %d}' % i, dict[str, int]) == {"a": i}
