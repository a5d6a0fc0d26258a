"""Make an .rpm of a tree: write a spec with its files, then run rpmbuild."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Final

import tree
from common import HERE, ROOT, abi, run

# rpmbuild must not inspect, change or compile the files again, and must not record the
# host or the time of the build.
_SETTINGS: Final = {
    "__os_install_post": "%{nil}",
    "_build_id_links": "none",
    "_buildhost": "skragent",
    "_binary_payload": "w9.zstdio",
    "_rpmfilename": "%{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}.rpm",
    "clamp_mtime_to_source_date_epoch": "1",
    "use_source_date_epoch_as_buildtime": "1",
}


def build_rpm(
    package: str, root: Path, out: Path, _work: Path, *, version: str, date: int
) -> Path:
    """Pack a tree of `tree.make_tree` and return the file."""
    upstream, _, revision = version.partition("-")
    doc = root / "usr/share/doc" / package
    (doc / "LICENSE").write_bytes((ROOT / "LICENSE").read_bytes())
    tree.settle(root, date)
    users = sorted((ROOT / "systemd/sysusers.d").glob("*.conf"))
    values = {
        "VERSION": upstream,
        "REVISION": revision,
        "PYTHON": abi(),
        "SYSUSERS": "".join(file.read_text() for file in users).strip(),
    }
    spec = (HERE / "rpm" / f"{package}.spec").read_text()
    for name, value in values.items():
        spec = spec.replace(f"@{name}@", value)
    with tempfile.TemporaryDirectory() as directory:
        top = Path(directory)
        script = top / f"{package}.spec"
        script.write_text(
            f"{spec}\n%install\ncp -a '{root}/.' %{{buildroot}}\n\n"
            f"%files\n%defattr(-,root,root)\n" + "\n".join(_files(root)) + "\n"
        )
        settings = {**_SETTINGS, "_topdir": directory, "_rpmdir": f"{directory}/RPMS"}
        defines = [f"--define={name} {value}" for name, value in settings.items()]
        run(
            ["rpmbuild", "-bb", "--quiet", *defines, script],
            environment={"SOURCE_DATE_EPOCH": str(date)},
        )
        (made,) = (top / "RPMS").glob("*.rpm")
        return Path(shutil.copy(made, out))


def _files(root: Path) -> list[str]:
    """List the files of the package and the folders that only this package has."""
    lines = []
    for path in sorted(root.rglob("*")):
        within = path.relative_to(root)
        place = f"/{within}"
        if place == str(tree.CONFIG):
            lines.append(f'%config(noreplace) "{place}"')
        elif place == str(tree.CONFIG.parent):
            lines.append(f'%dir %attr(0750, root, skragent) "{place}"')
        elif path.is_file() or path.is_symlink():
            lines.append(f'"{place}"')
        elif any(part.startswith("skragent") for part in within.parts):
            lines.append(f'%dir "{place}"')
    return lines
