"""Check the relative links of every Markdown file that git has.

`make lint` runs this. A link must name a file or directory of the repository, and its
anchor a heading of that file. Links to other hosts are not checked: no network is used.
Anchors are made from headings as GitHub does: https://github.com/gjtorikian/html-pipeline
(`toc_filter.rb`).
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterator

_LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
_REFERENCE = re.compile(r"^ {0,3}\[[^\]]+\]:\s*<?(\S+?)>?\s*$", re.MULTILINE)
_HEADING = re.compile(r"^ {0,3}#{1,6}\s+(.*?)\s*#*\s*$", re.MULTILINE)
_FENCE = re.compile(r"^( *)(```+|~~~+).*?^\1\2\s*$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)")
_OTHER_HOST = re.compile(r"[a-z][a-z0-9+.-]*:|//", re.IGNORECASE)


def main(arguments: list[str]) -> int:
    """Print every link without a target; exit status 1 if there is one."""
    root = Path.cwd()
    broken = [
        f"{path}:{line}: {link!r}: {problem}"
        for path in arguments or _markdown_files()
        for line, link, problem in check_file(root, root / path)
    ]
    for text in broken:
        print(text)
    return 1 if broken else 0


def check_file(root: Path, file: Path) -> Iterator[tuple[int, str, str]]:
    """Yield line, link and problem of each broken link of a file."""
    text = _blank(_FENCE, file.read_text())
    prose = _blank(_CODE, text)
    for found in (*_LINK.finditer(prose), *_REFERENCE.finditer(prose)):
        link = found[1]
        if problem := _problem(root, file, link):
            yield text.count("\n", 0, found.start()) + 1, link, problem


def anchors_of(text: str) -> set[str]:
    """Return the anchors that GitHub gives the headings of a Markdown text."""
    counts: Counter[str] = Counter()
    anchors = set()
    for found in _HEADING.finditer(_blank(_FENCE, text)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", found[1])
        slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        anchors.add(f"{slug}-{counts[slug]}" if counts[slug] else slug)
        counts[slug] += 1
    return anchors


def _markdown_files() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--", "*.md"], check=True, capture_output=True, text=True
    )
    return [path for path in listed.stdout.splitlines() if Path(path).is_file()]


def _problem(root: Path, file: Path, link: str) -> str:
    """Return what is wrong with a link; empty if it has a target."""
    if _OTHER_HOST.match(link):
        return ""
    path, _, anchor = link.partition("#")
    target = (file.parent / unquote(path)).resolve() if path else file
    if not target.is_relative_to(root.resolve()):
        return "outside of the repository"
    if not target.exists():
        return "there is no such file"
    if anchor and (
        target.suffix != ".md" or anchor not in anchors_of(target.read_text())
    ):
        return "the file has no such heading"
    return ""


def _blank(pattern: re.Pattern[str], text: str) -> str:
    """Replace what a pattern finds by its line breaks."""
    return pattern.sub(lambda found: "\n" * found[0].count("\n"), text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
