"""The package under test, and a later version of it to upgrade to."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


def package_of_this_tree(directory: Path) -> Path:
    """Build the package of the present tree.

    Libraries of an earlier build are not compiled again, so it takes ten seconds
    at most.
    """
    shutil.rmtree(directory, ignore_errors=True)
    arguments = f"ARGS=--package skragent --out '{directory}'"
    built = subprocess.run(
        ["make", "deb", arguments],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if built.returncode:
        raise RuntimeError(f"make deb could not build the package:\n{built.stdout}")
    (deb,) = directory.glob("skragent_*.deb")
    return deb


def next_version_of(deb: Path, directory: Path) -> Path:
    """Make the same package with a higher version.

    Only the control file differs, so all effects of the upgrade are the package's.
    """
    tree, upgrade = directory / "next", directory / "next.deb"
    _run("dpkg-deb", "--raw-extract", deb, tree)
    control = tree / "DEBIAN" / "control"
    text = re.sub(r"(?m)^(Version: .*)$", r"\1+next", control.read_text())
    control.write_text(text)
    # Any user can unpack and pack it; in the package all files belong to root.
    _run("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", tree, upgrade)
    shutil.rmtree(tree)
    return upgrade


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
