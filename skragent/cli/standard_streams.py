"""The standard streams of a command: any locale, any redirection, one error format.

A character that the stream's encoding lacks must not end a command. Examples are `…` in
a locale with ISO 8859-1, or a surrogate escape from the command line.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from skragent.errors import AgentError

# Substitutes for the characters beyond ASCII that our texts use.
_ASCII: Final = {"…": "...", "–": "-", "—": "-", "→": "->", "“": '"', "”": '"'}  # noqa: RUF001 - intended
_HANDLER: Final = "skragent.plain"
_STDERR: Final = 2


def prepare_streams() -> None:
    """Make stdout and stderr accept every text, and open closed descriptors.

    The next file or socket would get the number of a closed descriptor, and a library
    that writes to stderr would write into it. If stderr is closed, errors are not
    printed: `print` would print them to stdout, which may carry a key.
    """
    codecs.register_error(_HANDLER, _replace)
    for descriptor in range(_STDERR + 1):
        _fill(descriptor)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - open until the process ends
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)


def _fill(descriptor: int) -> None:
    try:
        os.fstat(descriptor)
    except OSError:
        # open(2) returns the lowest free descriptor, this one. Writing to it fails.
        os.open(os.devnull, os.O_RDONLY)


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    bad = error.object[error.start : error.end]
    plain = (
        _ASCII.get(c) or c.encode("ascii", "backslashreplace").decode() for c in bad
    )
    return "".join(plain), error.end


def print_error(code: str, message: str, hint: str = "") -> None:
    """Print an error on stderr."""
    print(format_error(code, message, hint), file=sys.stderr)


def print_agent_error(error: AgentError) -> None:
    """Print one of the agent's own errors on stderr."""
    print_error(error.code, error.message, error.hint)


def format_error(code: str, message: str, hint: str = "") -> str:
    """Return an error as text, without a newline at the end."""
    return f"skragent: {code}: {message}" + (f"\n  {hint}" if hint else "")
