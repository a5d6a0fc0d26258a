"""Paths, the date of a build and commands, for all packaging scripts.

The scripts run with Debian's Python and need the standard library only.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT: Final = Path(__file__).resolve().parent.parent
HERE: Final = ROOT / "packaging"

# The path of the tree on the machine where the package is installed.
LIBRARY: Final = Path("/usr/lib/skragent")

PYTHON: Final = "/usr/bin/python3"  # Debian's: the modules are compiled for it

# systemd-python has no wheels. tpm2-pytss has wheels with FAPI only, which needs curl.
FROM_SOURCE: Final = ("systemd-python", "tpm2-pytss")


def project() -> dict[str, object]:
    """Return the table [project] of pyproject.toml."""
    table: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return table["project"]  # type: ignore[return-value]


def abi() -> str:
    """Return the version of Python that the packages are for, as `3.11`."""
    shown = run([PYTHON, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"])
    return shown.strip()


def normal(name: str) -> str:
    """Write a distribution's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def epoch() -> int:
    """Return the date of all files: SOURCE_DATE_EPOCH, or that of the last commit."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given:
        return int(given)
    shown = subprocess.run(
        ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"],
        capture_output=True,
        text=True,
        check=False,
    )
    if shown.returncode:
        sys.exit("packaging: neither SOURCE_DATE_EPOCH nor a git commit gives a date")
    return int(shown.stdout)


def run(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Run a command and return its output; if it fails, print the output and exit."""
    done = subprocess.run(
        list(map(str, command)),
        env={**os.environ, "LC_ALL": "C.UTF-8", "TZ": "UTC", **(environment or {})},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.stderr.write(done.stdout + done.stderr)
        sys.exit(f"packaging: {command[0]} failed ({done.returncode}); see above")
    return done.stdout
