"""Run bash's completion."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from support.deadlines import DEADLINE_SECONDS
from support.manual import ROOT

SCRIPT = ROOT / "packaging" / "completion" / "skragent.bash"


def complete(
    *words: str, path: Path | None = None, directory: Path | None = None
) -> list[str]:
    """Return bash's completions of the last word."""
    ask = (
        'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1));'
        ' _skragent skragent; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-uc", ask, "bash", SCRIPT, "skragent", *words],
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE_SECONDS,
        stdin=subprocess.DEVNULL,
        cwd=directory,
        env={"PATH": f"{path}:{os.environ['PATH']}" if path else os.environ["PATH"]},
    )
    assert done.stderr == ""
    return done.stdout.split()


def put_command(directory: Path, body: str) -> Path:
    command = directory / "skragent"
    command.write_text(f"#!/bin/sh\n{body}\n")
    command.chmod(0o755)
    return directory
