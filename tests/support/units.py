"""A root with the units of systemd and skragent, and the commands of our units."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

UNITS = Path(__file__).resolve().parents[2] / "systemd"
SYSTEM = "usr/lib/systemd/system"

# The commands of the units. Each exists and does nothing.
_COMMANDS = ("skragent", "env", "test", "sleep")


def lay_out(root: Path) -> Path:
    """Install the units in an empty folder; return the folder for more units."""
    units = root / SYSTEM
    shutil.copytree(Path("/", SYSTEM), units, symlinks=True)
    for name in ("lib", "bin"):
        (root / name).symlink_to(f"usr/{name}")
    for unit in UNITS.glob("skragent*.*"):
        shutil.copy(unit, units)
    (root / "usr/bin").mkdir()
    for name in _COMMANDS:
        command = root / "usr/bin" / name
        command.write_text("#!/bin/true\n")
        command.chmod(0o755)
    return units


def verify(root: Path, units: Iterable[str]) -> subprocess.CompletedProcess[str]:
    """Let systemd load and check the units of a root."""
    return subprocess.run(
        # Without manual pages: tests/unit/test_manual_*.py check them.
        ["systemd-analyze", "verify", f"--root={root}", "--man=no", *units],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "SYSTEMD_LOG_COLOR": "0"},
    )
