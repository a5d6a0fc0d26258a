"""Make a .deb of a tree: write the control files, then run dpkg-deb."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import sys
import tempfile
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Final

import sbom
import tree
import vendor
from common import HERE, LIBRARY, ROOT, abi, run

_SCRIPTS: Final = ("postinst", "prerm", "postrm")
# The authors have no common address. The domain .invalid never exists (RFC 2606). Set
# DEBFULLNAME and DEBEMAIL in a build for others.
_ADDRESS: Final = "skragent@packages.invalid"


def build_deb(
    package: str, root: Path, out: Path, fetched: Path, *, version: str, date: int
) -> Path:
    """Pack a tree of `tree.make_tree` and return the file."""
    _add_documents(package, root, version, date)
    control = root / "DEBIAN"
    control.mkdir()
    for name in _SCRIPTS:
        script = HERE / "debian" / f"{package}.{name}"
        if script.exists():
            (control / name).write_bytes(script.read_bytes())
    if package == tree.AGENT:
        (control / "conffiles").write_text(f"{tree.CONFIG}\n{tree.APPARMOR}\n")
    files = [p for p in sorted(root.rglob("*")) if p.is_file() and control != p.parent]
    (control / "md5sums").write_text("".join(_md5_line(p, root) for p in files))
    architecture = run(["dpkg", "--print-architecture"]).strip()
    values = {
        "VERSION": version,
        "ARCHITECTURE": architecture,
        "MAINTAINER": maintainer(),
        "SIZE": str(sum(-(-p.stat().st_size // 1024) for p in files)),
        "DEPENDS": ", ".join([*_python_range(), _shared_libraries(package, fetched)]),
    }
    text = (HERE / "debian" / f"{package}.control").read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    (control / "control").write_text(text)
    tree.settle(root, date)
    file = out / f"{package}_{version}_{architecture}.deb"
    packing = (
        "-Zxz",
        "-z1",  # a seventh more than with -z6, in a fifth of the time
        "--threads-max=1",
        "--root-owner-group",
        "--uniform-compression",
    )
    run(
        ["dpkg-deb", *packing, "--build", root, file],
        environment={"SOURCE_DATE_EPOCH": str(date)},
    )
    return file


def maintainer() -> str:
    """Return the maintainer: DEBFULLNAME and DEBEMAIL, as Debian's tools use them.

    Without them it is the holder of the licence.
    """
    name, mail = os.environ.get("DEBFULLNAME"), os.environ.get("DEBEMAIL")
    if name and mail:
        return f"{name} <{mail}>"
    holder = re.search(r"Copyright \(c\) [\d-]+ (.+)", (ROOT / "LICENSE").read_text())
    if holder is None:
        sys.exit(
            "packaging: LICENSE has no copyright line; set DEBFULLNAME and DEBEMAIL"
        )
    return f"{holder[1]} <{_ADDRESS}>"


def _python_range() -> list[str]:
    """Return the dependency on the Python that the modules are compiled for."""
    at_least = abi()
    major, minor = map(int, at_least.split("."))
    below = f"{major}.{minor + 1}"
    return [f"python3 (>= {at_least})", f"python3 (<< {below})"]


def _shared_libraries(package: str, fetched: Path) -> str:
    """Return the packages of the libraries that the vendored libraries link to.

    dpkg finds them. The result is stored beside the vendored libraries.
    """
    kept = fetched / f"{package}.shlibs"
    if not kept.exists():
        found = vendor.shared_objects(fetched / "library" / package)
        with tempfile.TemporaryDirectory() as directory:
            control = Path(directory, "debian", "control")
            control.parent.mkdir()
            control.write_text(
                "Source: skragent\n\nPackage: skragent\nArchitecture: any\n"
            )
            command = ["dpkg-shlibdeps", "-O", "--ignore-missing-info"]
            command += [f"-e{file}" for file in found]
            shown = run(command, cwd=Path(directory))
        kept.write_text(shown.partition("shlibs:Depends=")[2].strip())
    return kept.read_text()


def _add_documents(package: str, root: Path, version: str, date: int) -> None:
    doc = root / "usr/share/doc" / package
    day = format_datetime(datetime.fromtimestamp(date, UTC))
    entry = (
        f"{package} ({version}) unstable; urgency=medium\n\n"
        f"  * Built of the project's own tree: see changelog.gz.\n\n"
        f" -- {maintainer()}  {day}\n"
    )
    changelog = gzip.compress(entry.encode(), 9, mtime=0)
    (doc / "changelog.Debian.gz").write_bytes(changelog)
    (doc / "copyright").write_text(_copyright(root))
    overrides = root / "usr/share/lintian/overrides" / package
    overrides.parent.mkdir(parents=True)
    given = HERE / "debian" / f"{package}.lintian-overrides"
    overrides.write_text(given.read_text())


def _copyright(root: Path) -> str:
    """Return our licence and the name of each vendored library's licence."""
    lines = [(ROOT / "LICENSE").read_text(), "\nVendored, each with its own licence:\n"]
    for entry in sbom.vendored(root / LIBRARY.relative_to("/")):
        name = f"{entry['Name']} {entry['Version']}"
        lines.append(f"  {name}: {sbom.license_of(entry)}\n")
    lines.append(
        f"\nTheir texts are in {LIBRARY}/*.dist-info; that of the Apache License 2.0\n"
        "is also in /usr/share/common-licenses/Apache-2.0 on Debian systems.\n"
    )
    return "".join(lines)


def _md5_line(path: Path, root: Path) -> str:
    digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    return f"{digest}  {path.relative_to(root)}\n"
