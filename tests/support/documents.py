"""Read the Markdown files of the project."""

from __future__ import annotations

import functools
import re
import subprocess
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: the file, the line where it begins, its language, its text."""

    path: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


@functools.cache
def paths() -> tuple[str, ...]:
    """List the Markdown files that git tracks."""
    listed = subprocess.run(
        ["git", "ls-files", "--", "*.md"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return tuple(path for path in listed.stdout.splitlines() if (ROOT / path).exists())


def read(path: str) -> str:
    """Return the text of a file."""
    return (ROOT / path).read_text()


@functools.cache
def blocks(language: str = "") -> tuple[Block, ...]:
    """List the fenced blocks of all files, or those in one language."""
    found = [
        Block(path, text.count("\n", 0, fence.start()) + 1, fence[2], dedented(fence))
        for path in paths()
        for text in [read(path)]
        for fence in _FENCE.finditer(text)
    ]
    return tuple(block for block in found if language in ("", block.language))


def dedented(fence: re.Match[str]) -> str:
    """Return the text of a fence without the indentation of its list."""
    return textwrap.dedent(fence[3])


def prose(path: str) -> str:
    """Return the text of a file without its fenced blocks."""
    return _FENCE.sub("", read(path))


def command_lines(block: Block) -> list[str]:
    """List the commands of a block: lines joined, comments left out."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [line for line in lines if line and not line.lstrip().startswith("#")]
