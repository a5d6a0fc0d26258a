"""The package under test, and a later version of it to upgrade to."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


def package_of_this_tree(directory: Path) -> Path:
    """Build the package of this working tree.

    Libraries that an earlier build compiled are not compiled again, so that this takes
    at most ten seconds.
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

    Only its control file differs, so an upgrade runs the package's own scripts.
    """
    tree, upgrade = directory / "next", directory / "next.deb"
    _run("dpkg-deb", "--raw-extract", deb, tree)
    control = tree / "DEBIAN" / "control"
    text = re.sub(r"(?m)^(Version: .*)$", r"\1+next", control.read_text())
    control.write_text(text)
    # The user of the tests unpacks and packs the files; in the package root owns them.
    _run("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", tree, upgrade)
    shutil.rmtree(tree)
    return upgrade


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
