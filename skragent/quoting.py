"""The words of a service, a library or a file in a message of ours: short, one line."""

from __future__ import annotations

from typing import Final

MAX_CHARACTERS: Final = 300


def quote(text: str, max_characters: int = MAX_CHARACTERS) -> str:
    """Put a text of somebody else's on one line, printable and bounded."""
    # Cut twice: a text may have a million characters, or a million blanks before one.
    line = " ".join(text[: max_characters * 4].split())[:max_characters]
    return "".join(c if c.isprintable() else "?" for c in line)
