"""Tracebacks are always short, and quote messages only if they may."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from skragent.tracebacks import (
    FIRST_FRAMES,
    LAST_FRAMES,
    MAX_EXCEPTIONS,
    describe,
    place_of,
)

MAX_LINES = 2 * (FIRST_FRAMES + LAST_FRAMES) + 5


def caught(function: Callable[[], object]) -> BaseException:
    with pytest.raises(BaseException) as info:  # noqa: PT011 - any
        function()
    return info.value


def recurse(depth: int = 0) -> int:
    return other(depth + 1)


def other(depth: int) -> int:
    return recurse(depth + 1)


def test_an_endless_recursion_is_rendered_in_a_few_lines() -> None:
    error = caught(recurse)
    assert isinstance(error, RecursionError)
    text = describe(error, with_messages=False)
    lines = text.splitlines()
    assert len(lines) < MAX_LINES
    assert "in caught" in lines[0]
    assert "frames are left out)" in text
    assert lines[-1] == "builtins.RecursionError"


def test_the_place_of_an_endless_recursion_is_where_it_began() -> None:
    places = {place_of(caught(recurse)) for _ in range(2)}
    places.add(place_of(caught(lambda: recurse(5))))
    assert len(places) == 1


def test_the_first_and_the_last_frames_are_kept() -> None:
    def deep(n: int) -> None:
        if n:
            deep(n - 1)
        else:
            raise ValueError("deepest")

    text = describe(caught(lambda: deep(50)), with_messages=True)
    assert len(text.splitlines()) < MAX_LINES
    assert "in caught" in text
    assert "(37 frames are left out)" in text
    assert 'raise ValueError("deepest")' in text
    assert text.endswith("builtins.ValueError: deepest\n")


def test_a_short_traceback_is_whole() -> None:
    def fail() -> None:
        raise ValueError

    text = describe(caught(fail), with_messages=True)
    assert "left out" not in text
    assert text.splitlines()[-1] == "builtins.ValueError"


def test_the_chain_of_earlier_exceptions_is_bounded() -> None:
    def chain(n: int) -> None:
        try:
            int("x") if n == 0 else chain(n - 1)
        except ValueError as error:
            raise ValueError(n) from error

    text = describe(caught(lambda: chain(100)), with_messages=False)
    assert text.count("builtins.") == MAX_EXCEPTIONS
    assert text.startswith("(earlier exceptions are left out)\n")
    assert text.endswith("builtins.ValueError\n")


def test_an_exception_that_is_its_own_cause_ends() -> None:
    error, earlier = ValueError("a"), KeyError("b")
    error.__cause__, earlier.__cause__ = earlier, error
    text = describe(error, with_messages=False)
    assert text.count("builtins.ValueError") == 1


def test_messages_are_left_out_where_they_may_be_secret() -> None:
    text = describe(caught(lambda: int("the-secret")), with_messages=False)
    assert text.endswith("builtins.ValueError\n")
    # The line of code is there, and nothing that it was about.
    assert "invalid literal" not in text


def test_a_message_that_cannot_be_made_is_left_out() -> None:
    class OddError(Exception):
        def __str__(self) -> str:
            raise ValueError

    text = describe(OddError(), with_messages=True)
    assert text.endswith("OddError\n")


def test_an_exception_that_was_never_raised_has_no_place() -> None:
    assert place_of(ValueError()) == "?"


def test_places_tell_two_lines_apart() -> None:
    def fail(*, early: bool) -> None:
        if early:
            raise ValueError
        raise ValueError

    places = {place_of(caught(lambda e=e: fail(early=e))) for e in (True, False)}  # type: ignore[misc]
    assert len(places) == 2
    assert all(place.startswith(f"{__file__}:") for place in places)
    assert sys.getrecursionlimit() > MAX_LINES
