"""Render a traceback that is always short enough for the journal.

An endless recursion has a thousand frames, and an exception can have a long chain of
causes. The first frames show where the work began and the last frames where it failed.
Only these are kept.
"""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

FIRST_FRAMES: Final = 4
LAST_FRAMES: Final = 12
MAX_EXCEPTIONS: Final = 4


def describe(error: BaseException, *, with_messages: bool) -> str:
    """Render an exception and its causes, the earliest first.

    Args:
        error: the exception.
        with_messages: False leaves out messages, which may quote secrets.
    """
    return "".join(_describe(error, with_messages=with_messages))


def place_of(error: BaseException) -> str:
    """Return the file and line where an exception was raised.

    An endless recursion ends at a varying line, so its first line is returned.
    """
    frames = list(traceback.walk_tb(error.__traceback__))
    if not frames:
        return "?"
    frame, line = frames[0 if isinstance(error, RecursionError) else -1]
    return f"{frame.f_code.co_filename}:{line}"


def _describe(error: BaseException, *, with_messages: bool) -> Iterator[str]:
    chain, left_out = _chain(error)
    if left_out:
        yield "(earlier exceptions are left out)\n"
    for one in chain:
        yield from _frames(one)
        kind = f"{type(one).__module__}.{type(one).__qualname__}"
        message = _message(one) if with_messages else ""
        yield f"{kind}: {message}\n" if message else f"{kind}\n"


def _chain(error: BaseException) -> tuple[list[BaseException], bool]:
    """Return an exception and its causes, and whether there are more causes."""
    chain: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and len(chain) < MAX_EXCEPTIONS and found not in chain:
        chain.insert(0, found)
        later = found
        found = later.__cause__
        if found is None and not later.__suppress_context__:
            found = later.__context__
    return chain, found is not None


def _frames(error: BaseException) -> Iterator[str]:
    frames = list(traceback.walk_tb(error.__traceback__))
    left_out = len(frames) - FIRST_FRAMES - LAST_FRAMES
    if left_out <= 0:
        yield from traceback.StackSummary.extract(iter(frames)).format()
        return
    yield from traceback.StackSummary.extract(iter(frames[:FIRST_FRAMES])).format()
    yield f"  ({left_out} frames are left out)\n"
    yield from traceback.StackSummary.extract(iter(frames[-LAST_FRAMES:])).format()


def _message(error: BaseException) -> str:
    try:
        return " ".join(str(error).split())
    except Exception:  # noqa: BLE001 - any code of the exception's own
        return ""
