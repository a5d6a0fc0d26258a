"""Runs the build of the packages as `make deb` and `make rpm` do."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ("/usr/bin/python3", "-B", str(ROOT / "packaging/build.py"))


@dataclass(frozen=True)
class Built:
    """What one run of the build made, and what it said."""

    directory: Path
    said: str

    def file(self, package: str) -> Path:
        (found,) = self.directory.glob(f"{package}[-_][0-9]*")
        return found


def build(form: str, directory: Path, *arguments: str) -> Built:
    command = [*BUILD, form, "--out", str(directory), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Built(directory, done.stdout)
