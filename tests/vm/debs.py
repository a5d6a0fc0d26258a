"""The package under test, and a later version of it to upgrade to."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path


def newest_deb(build: Path) -> Path:
    """Give the package that was built last; build it where there is none."""
    if not list(build.glob("skragent_*.deb")):
        subprocess.run(["make", "deb"], cwd=build.parent, check=True)
    return max(build.glob("skragent_*.deb"), key=lambda path: path.stat().st_mtime)


def next_version_of(deb: Path, directory: Path) -> Path:
    """Make the same package with a higher version.

    Only its control file differs: what an upgrade does is the package's own doing.
    """
    tree, upgrade = directory / "next", directory / "next.deb"
    _run("dpkg-deb", "--raw-extract", deb, tree)
    control = tree / "DEBIAN" / "control"
    text = re.sub(r"(?m)^(Version: .*)$", r"\1+next", control.read_text())
    control.write_text(text)
    # Unpacked and packed by whoever runs the tests; owned by root in the package.
    _run("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", tree, upgrade)
    shutil.rmtree(tree)
    return upgrade


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
