"""Find words that the project's texts avoid, in every file that git has.

`make lint` runs this. CONTRIBUTING.md, "Words", says which words they are and what to
write instead. Read are comments, docstrings, messages and names of tests in Python,
and whole files elsewhere.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_FLAGS = re.IGNORECASE


class Rule(NamedTuple):
    """A pattern, and what to write instead."""

    pattern: re.Pattern[str]
    instead: str


def _rule(pattern: str, instead: str, flags: int = _FLAGS) -> Rule:
    return Rule(re.compile(pattern, flags), instead)


RULES = (
    _rule(r"\b(who|whoever|whom|whomever)\b", "name the person or the thing"),
    _rule(
        r"(?<!\")\b(nobody|somebody|anybody|everybody|someone|anyone|no one)\b",
        "name the person or the thing",
    ),
    _rule(r"\b(whatever|whichever|that which|those which)\b", "name the thing"),
    _rule(
        r"\bwhat (is|was|are|were) (not )?\w+ (is|was|are|were)\b",
        "use a noun in place of `what is …`",
    ),
    _rule(r"\b(be|is|are|was|were|been) had\b", "say who does what: `the agent gets`"),
    _rule(
        r"(?<!\bthere )(?<!\bthere also )\b(is|are|was|were) no"
        r" (?!longer\b|more than\b|other\b)",
        "write `is not a`",
    ),
    _rule(r", for (it|they|there|we|he|these|those)\b", "write `because`"),
    _rule(
        r"\b(rooms?|towers?|stories|crowds?|parked|parking lots?|patience"
        r"|strangers?|errands?|in turns?|asker|askers|story)\b",
        "use the field's word, not a metaphor",
    ),
)
_DOCSTRING_RULES = (
    _rule(r"\ATells?\b", "begin with `Return`, `Report`, `Log` …"),
    _rule(r"\ASays?\b", "begin with `Return`, `Report`, `Log` …"),
)
_TEXT_SUFFIXES = {".md", ".toml", ".service", ".socket", ".target", ".conf", ".bicep"}
_TEXT_SUFFIXES |= {".1", ".5", ".7", ".8", ".yaml", ".yml", ".sh", ".catalog", ".cfg"}
# The rules themselves.
_EXCEPT = {".ci/check_text.py", "CONTRIBUTING.md"}
_MIN_WORDS_OF_MESSAGE = 3


class Finding(NamedTuple):
    """A place that a rule is about."""

    path: str
    line: int
    words: str
    instead: str


def main(arguments: list[str]) -> int:
    """Print what is found; exit status 1 if there is anything."""
    findings = [
        finding
        for path in _files(arguments)
        for finding in sorted(set(_examine(path)), key=lambda f: f.line)
    ]
    for path, line, words, instead in findings:
        print(f"{path}:{line}: {words!r}: {instead}")
    if findings:
        print(f"{len(findings)} found")
    return 1 if findings else 0


def _files(arguments: list[str]) -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--", *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return [path for path in listed.stdout.splitlines() if path not in _EXCEPT]


def _examine(path: str) -> Iterator[Finding]:
    file = Path(path)
    if not file.is_file() or file.is_symlink():
        return
    if file.suffix == ".py":
        yield from _examine_python(path, file.read_text())
    elif file.suffix in _TEXT_SUFFIXES or file.name == "Makefile":
        yield from _apply(RULES, path, 1, _without_code(file.read_text()))


def _examine_python(path: str, source: str) -> Iterator[Finding]:
    tree = ast.parse(source)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and (text := ast.get_docstring(node)):
            line = node.body[0].lineno
            yield from _apply(_DOCSTRING_RULES, path, line, text)
        if isinstance(node, documented[1:]) and node.name.startswith("test_"):
            words = node.name.replace("_", " ")
            yield from _apply(RULES, path, node.lineno, words)
    for line, message in _messages(tree):
        yield from _apply(RULES, path, line, message)
    comments = [
        token
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    ]
    for token in comments:
        yield from _apply(RULES, path, token.start[0], token.string)


def _messages(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Find the strings of several words, with their lines."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and len(node.value.split()) >= _MIN_WORDS_OF_MESSAGE
        ):
            yield node.lineno, node.value


def _without_code(text: str) -> str:
    """Blank out fenced code of Markdown, keeping the numbers of lines."""
    return re.sub(
        r"^```.*?^```$",
        lambda found: "\n" * found[0].count("\n"),
        text,
        flags=re.MULTILINE | re.DOTALL,
    )


def _apply(
    rules: tuple[Rule, ...], path: str, line: int, text: str
) -> Iterator[Finding]:
    folded = re.sub(r"\s", " ", text)
    for rule in rules:
        for found in rule.pattern.finditer(folded):
            number = line + text.count("\n", 0, found.start())
            yield Finding(path, number, found[0], rule.instead)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
