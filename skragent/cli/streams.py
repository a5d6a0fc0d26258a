"""The standard streams of a command, made fit for any locale and any redirection.

A text that the stream's encoding does not have must not end a command: `…` in a locale
of ISO 8859-1, or a name that is no text, as Python decodes it from the command line.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import Final

# What our texts use beyond ASCII, in ASCII.
_ASCII: Final = {"…": "...", "–": "-", "—": "-", "→": "->", "“": '"', "”": '"'}  # noqa: RUF001 - these very characters
_HANDLER: Final = "skragent.plain"
_STDERR: Final = 2


def prepare_streams() -> None:
    """Let stdout and stderr take every text, and fill descriptors that are closed.

    A descriptor that is closed would be the next file's or socket's, and a library that
    writes to stderr would write there. If stderr is closed, errors are not printed:
    `print` would print them to stdout, where the reader expects a key.
    """
    codecs.register_error(_HANDLER, _replace)
    for descriptor in range(_STDERR + 1):
        _fill(descriptor)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - open until the end
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)


def _fill(descriptor: int) -> None:
    try:
        os.fstat(descriptor)
    except OSError:
        # The lowest free descriptor is this one. A write to it fails, as it should.
        os.open(os.devnull, os.O_RDONLY)


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    bad = error.object[error.start : error.end]
    plain = (
        _ASCII.get(c) or c.encode("ascii", "backslashreplace").decode() for c in bad
    )
    return "".join(plain), error.end
