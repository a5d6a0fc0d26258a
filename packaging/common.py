"""What the packaging scripts share: places, the date of a build, running commands.

They are scripts of Debian's own Python and stand on the standard library alone.
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

# Where the tree is on the machine that it is installed on.
LIBRARY: Final = Path("/usr/lib/skragent")

PYTHON: Final = "/usr/bin/python3"  # Debian's: whose bytes are compiled for

# No wheels of these are to be had, or none without the half that wants curl.
FROM_SOURCE: Final = ("systemd-python", "tpm2-pytss")


def project() -> dict[str, object]:
    """Give the table [project] of pyproject.toml."""
    table: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return table["project"]  # type: ignore[return-value]


def abi() -> str:
    """Give the version of Python that the packages are for, as `3.11`."""
    shown = run([PYTHON, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"])
    return shown.strip()


def normal(name: str) -> str:
    """Write a distribution's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def epoch() -> int:
    """Give the date of everything built: the last commit's, unless the caller says."""
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
    """Run a command and give what it printed; where it fails, show that and end."""
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
