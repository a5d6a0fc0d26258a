"""Run the build of the packages as `make deb` and `make rpm` do."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "package"
_DATE = ("git", "log", "-1", "--format=%ct")


@dataclass(frozen=True)
class Built:
    """The packages of one build, and its output."""

    directory: Path
    output: str

    def file(self, package: str) -> Path:
        (found,) = self.directory.glob(f"{package}[-_][0-9]*")
        return found


def build(
    form: str,
    directory: Path,
    *arguments: str,
    tree: Path = ROOT,
    work: Path = WORK,
    umask: int = -1,
) -> Built:
    """Build packages in a directory.

    Args:
        form: "deb" or "rpm".
        directory: the directory for the packages.
        arguments: further arguments of the build.
        tree: the repository, or a changed copy of it without its history.
        work: the directory of intermediate files, which the build uses again.
        umask: the umask of the build; -1 is the umask of this process.
    """
    script = tree / "packaging/build.py"
    command = ["/usr/bin/python3", "-B", str(script), form, *arguments]
    command += ["--out", str(directory), "--work", str(work)]
    environment = dict(os.environ)
    if tree != ROOT:
        date = subprocess.check_output(_DATE, cwd=ROOT, text=True).strip()
        environment.setdefault("SOURCE_DATE_EPOCH", date)
    done = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        umask=umask,
    )
    assert done.returncode == 0, done.stderr
    return Built(directory, done.stdout)
