"""Quoted text of another program is short, printable and on one line."""

from __future__ import annotations

import pytest

from skragent.quoting import MAX_CHARACTERS, quote


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("two\n  lines", "two lines"),
        ("a\x1b[2Jb", "a?[2Jb"),
        ("x" * MAX_CHARACTERS, "x" * MAX_CHARACTERS),
    ],
)
def test_a_short_text_is_quoted_whole(text: str, expected: str) -> None:
    assert quote(text) == expected


@pytest.mark.parametrize(
    "text", ["x" * (MAX_CHARACTERS + 1), "word " * 1_000, f"a{' ' * 10_000}b"]
)
def test_a_shortened_text_ends_with_an_ellipsis(text: str) -> None:
    quoted = quote(text)
    assert quoted.endswith("…")
    assert " …" not in quoted
    assert len(quoted) <= MAX_CHARACTERS
