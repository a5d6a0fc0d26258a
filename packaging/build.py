"""Build the packages and list their contents: `make deb`, `make rpm`.

Two builds of the same commit give the same bytes, in any folder and at any time.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import sys
from pathlib import Path
from typing import Any, Final

import vendor
from common import LIBRARY, ROOT, epoch, project
from deb import build_deb
from rpm import build_rpm
from tree import AGENT, EMULATOR, make_tree

_BUILDERS: Final = {"deb": build_deb, "rpm": build_rpm}
_PACKAGES: Final = (AGENT, EMULATOR)


def main() -> int:
    """Build one format of the packages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("form", choices=_BUILDERS)
    parser.add_argument(
        "--package", choices=_PACKAGES, action="append", help="only this one"
    )
    folder = ROOT / "build" / "package"
    parser.add_argument(
        "--work", type=Path, default=folder, help="for intermediate files"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build", help="for packages")
    parser.add_argument("--revision", default="1", help="the revision of the packaging")
    arguments = parser.parse_args()
    work, out = arguments.work.resolve(), arguments.out.resolve()
    described: Any = project()
    version, date = f"{described['version']}-{arguments.revision}", epoch()
    out.mkdir(parents=True, exist_ok=True)
    _lock(work)
    vendor.fetch(work / "fetched")
    for package in arguments.package or _PACKAGES:
        root = work / arguments.form / package
        form, fetched = arguments.form, work / "fetched"
        make_tree(package, form, fetched, root, version=version, date=date)
        build = _BUILDERS[form]
        file = build(package, root, out, fetched, version=version, date=date)
        _print_contents(file, root)
    return 0


def _lock(work: Path) -> None:
    """Lock the folder until this process ends, so that builds run one after another."""
    work.mkdir(parents=True, exist_ok=True)
    fcntl.flock(os.open(work / "lock", os.O_CREAT | os.O_RDWR, 0o600), fcntl.LOCK_EX)


def _print_contents(file: Path, root: Path) -> None:
    """Print the package's name, hash, size and contents."""
    found = (path for path in root.rglob("*") if path.is_file())
    files = [path for path in found if path.parent.name != "DEBIAN"]
    library = root / LIBRARY.relative_to("/")
    vendored = [path.name.split("-")[0] for path in library.glob("*.dist-info")]
    size = sum(path.stat().st_size for path in files)
    print(file)
    print(f"  sha256    {hashlib.sha256(file.read_bytes()).hexdigest()}")
    print(f"  size      {file.stat().st_size / 1e6:.1f} MB, {size / 1e6:.1f} installed")
    print(
        f"  files     {len(files)}, {sum(p.suffix == '.pyc' for p in files)} compiled"
    )
    print(f"  vendored  {len(vendored)}: {', '.join(sorted(vendored, key=str.lower))}")
    for path in sorted(files):
        place = path.relative_to(root)
        if library not in path.parents and place.parts[:3] != ("usr", "share", "doc"):
            print(f"  /{place}")


if __name__ == "__main__":
    sys.exit(main())
