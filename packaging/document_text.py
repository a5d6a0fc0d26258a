"""Convert the Markdown of the source's texts to mdoc(7).

Paragraphs, names in backquotes, indented commands and references such as skragent(1):
the texts have nothing else.
"""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

# Names that have a macro of their own. The generator fills these sets.
ERROR_CODES: Final[set[str]] = set()
SETTINGS: Final[set[str]] = set()
EVENTS: Final[set[str]] = set()

_COLUMNS: Final = 80
_INDENT: Final = "    "
_OPENING: Final = "(["
_CLOSING: Final = ".,;:!?)]"
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+")
_REFERENCE: Final = re.compile(r"\b([a-z_][a-z0-9_.-]*)\((\d)\)")
_TOKEN: Final = re.compile(rf"`([^`]+)`|{_REFERENCE.pattern}")
# Patterns of other names that have a macro.
_MACROS: Final = (
    (r"(\[\w+(?:\.NAME)?\])", r"Ic \1"),
    (r"(/(?:dev|etc|home|run|tmp|usr|var|sys)\b[\w./-]*)", r"Pa \1"),
    (r"([A-Z]+(?:_[A-Z]+)+)", r"Ev \1"),
    (r"--([a-z-]+)", r"Fl -\1"),
    (r"skragent ([a-z-]+(?: --[a-z-]+)*)", r"Nm skragent Cm \1"),
)


def mdoc(text: str) -> Iterator[str]:
    """Yield the lines of a text as mdoc source."""
    was_text = False
    for paragraph in text.split("\n\n"):
        if paragraph.startswith(_INDENT):
            yield from (".Bd -literal -offset indent", *_literal(paragraph), ".Ed")
            was_text = False
        elif paragraph:
            if was_text:
                yield ".Pp"
            yield from _paragraph(" ".join(paragraph.split()))
            was_text = True


def _literal(paragraph: str) -> Iterator[str]:
    for line in paragraph.splitlines():
        yield _escape(line.removeprefix(_INDENT))


def _paragraph(text: str) -> Iterator[str]:
    """Yield lines of plain text and lines with one macro each."""
    plain, position = "", 0
    for match in _TOKEN.finditer(text):
        plain += text[position : match.start()]
        position = match.end()
        opening = ""
        if plain.endswith(tuple(_OPENING)):
            plain, opening = plain[:-1], f"{plain[-1]} "
        yield from _plain(plain)
        plain = ""
        closing = re.match(rf"[{re.escape(_CLOSING)}]*", text[position:])
        ending = closing.group() if closing else ""
        position += len(ending)
        attached = re.match(r"[^\s`]*", text[position:])
        suffix = attached.group() if attached else ""
        position += len(suffix)
        macro = _macro(match)
        yield " ".join(
            [f".{macro}" if not opening else _with_opening(macro, opening), *ending]
            + ([f"Ns {suffix}"] if suffix else [])
        )
    yield from _plain(plain + text[position:])


def _with_opening(macro: str, opening: str) -> str:
    """Put an opening parenthesis before the first argument of a macro."""
    name, _, arguments = macro.partition(" ")
    return f".{name} {opening}{arguments}"


def _plain(text: str) -> Iterator[str]:
    """Yield plain text: each sentence begins on a line of its own."""
    for sentence in _SENTENCE_END.split(text.strip()):
        for line in textwrap.wrap(
            _escape(sentence), _COLUMNS, break_long_words=False, break_on_hyphens=False
        ):
            yield rf"\&{line}" if line.startswith((".", "'")) else line


def _macro(match: re.Match[str]) -> str:
    """Return the macro for a name in backquotes or a reference to a page."""
    name, page, section = match.groups()
    if page:
        return f"Xr {page} {section}"
    return _macro_of_name(name)


def _macro_of_name(name: str) -> str:
    for macro, names in (("Er", ERROR_CODES), ("Va", SETTINGS), ("Dv", EVENTS)):
        if name in names:
            return f"{macro} {name}"
    for pattern, replacement in _MACROS:
        if re.fullmatch(pattern, name):
            macro = re.sub(pattern, replacement, name, count=1)
            return macro.replace(" --", " Fl -")
    return f"Ql {_quote(name)}"


def _quote(argument: str) -> str:
    if argument in {*_OPENING, *_CLOSING, "|"}:
        return rf"\&{argument}"  # not a delimiter of the macro's line
    escaped = _escape(argument).replace('"', r"\(dq")
    return f'"{escaped}"' if " " in escaped else escaped


def _escape(text: str) -> str:
    return text.replace("\\", r"\e")
