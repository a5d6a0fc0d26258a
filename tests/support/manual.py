"""Read the manual pages: the macros of mdoc(7) that they use."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MANUAL = ROOT / "packaging" / "man"
PAGES = tuple(sorted(MANUAL.iterdir()))

_ESCAPES = {r"\(dq": '"', r"\&": "", r"\-": "-", r"\e": "\\"}


@dataclass
class Item:
    """A list item `.It MACRO WORDS` with its section and subsection."""

    section: str
    subsection: str
    macro: str
    words: str
    lines: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Return the item's text without macro names, on one line."""
        return " ".join(re.sub(r"^\.[A-Z][a-z] ", "", line) for line in self.lines)


def source(name: str) -> str:
    """Return a page's source without escapes."""
    text = (MANUAL / name).read_text()
    for escaped, character in _ESCAPES.items():
        text = text.replace(escaped, character)
    return text


@functools.cache
def items(name: str) -> tuple[Item, ...]:
    """Return all list items of a page."""
    found: list[Item] = []
    section = subsection = ""
    for line in source(name).splitlines():
        head, _, rest = line.partition(" ")
        if head == ".Sh":
            section, subsection = rest, ""
        elif head == ".Ss":
            subsection = rest
        elif head == ".It":
            macro, _, words = rest.partition(" ")
            found.append(Item(section, subsection, macro, words))
        elif found and head != ".El":
            found[-1].lines.append(line)
    return tuple(found)


def words_of(name: str, macro: str) -> set[str]:
    """Return a macro's arguments: `.Va a , b` and `.It Va c No = 1` have a, b, c."""
    found: set[str] = set()
    for line in source(name).splitlines():
        if not re.match(r"\.[A-Z]", line):
            continue
        current = ""
        for word in line[1:].split():
            if re.fullmatch(r"[A-Z][a-z]", word):
                current = word
            elif current == macro and re.search(r"\w", word):
                found.add(word)
    return found


def subsections(name: str) -> dict[str, str]:
    """Return the text of each subsection `.Ss`."""
    parts = re.split(r"(?m)^\.S[sh] (.*)$", source(name))[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))
