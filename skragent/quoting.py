"""Quote texts of services, libraries and files in messages: short, on one line."""

from __future__ import annotations

from typing import Final

MAX_CHARACTERS: Final = 300


def quote(text: str, max_characters: int = MAX_CHARACTERS) -> str:
    """Put another program's text on one line, printable and bounded.

    A text that is cut ends with an ellipsis.
    """
    # Cut twice: a text may have a million characters, or a million blanks before one.
    start = text[: max_characters * 4]
    line = " ".join(start.split())
    is_cut = len(line) > max_characters or len(start) < len(text)
    if is_cut:
        line = f"{line[: max_characters - 1].rstrip()}…"
    return "".join(c if c.isprintable() else "?" for c in line)
