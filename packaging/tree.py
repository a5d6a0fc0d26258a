"""The two packages as folders, with every file at its installed path.

Units, manual pages, completions and similar files are packaged as they are in the
repository. A new file in one of these directories is packaged, too.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

import sbom
import vendor
from common import HERE, LIBRARY, ROOT, abi

if TYPE_CHECKING:
    from collections.abc import Iterator

AGENT: Final = "skragent"
EMULATOR: Final = "skragent-emulator"

CONFIG: Final = Path("/etc/skragent/skragent.toml")
# Debian and Ubuntu only: distributions with RPMs have SELinux instead.
APPARMOR: Final = Path("/etc/apparmor.d/skragent")

_SYSTEMD: Final = Path("usr/lib/systemd")
# Debian has another directory for zsh completions than other distributions.
_ZSH: Final = {"deb": "vendor-completions", "rpm": "site-functions"}

_EXAMPLE: Final = re.compile(r"\[(keys|identities)\.")


def make_tree(
    package: str, form: str, work: Path, root: Path, *, version: str, date: int
) -> None:
    """Create the folder of a package.

    Args:
        package: AGENT or EMULATOR.
        form: "deb" or "rpm".
        work: the folder of `vendor.fetch`.
        root: the folder to create.
        version: the version of the package.
        date: the date of every file, in seconds since 1970.
    """
    shutil.rmtree(root, ignore_errors=True)
    library = root / LIBRARY.relative_to("/")
    vendor.install(work, package, library)
    _copy_own(library, package)
    own = LIBRARY / "skragent"
    vendor.byte_compile(root / own.relative_to("/"), place=own)
    doc = root / "usr/share/doc" / package
    _put(ROOT / "CHANGELOG.md", doc / "changelog.gz")
    bill = sbom.write_sbom(
        library, work / "dist" / package, name=package, version=version, date=date
    )
    (doc / "sbom.cdx.json").write_bytes(bill)
    if package == AGENT:
        _add_system_files(root, doc, form)
        _add_client(root, form)


def settle(root: Path, date: int) -> None:
    """Set one date and the installed permissions, independent of the umask."""
    config = root / CONFIG.parent.relative_to("/")
    commands = (root / "usr/bin", root / "DEBIAN")
    for path in [root, *root.rglob("*")]:
        if path.is_symlink():
            pass
        elif path == config:
            path.chmod(0o750)
        elif path.is_dir() or (path.parent in commands and _is_script(path)):
            path.chmod(0o755)
        else:
            path.chmod(0o644)
    for path in [*root.rglob("*"), root]:
        os.utime(path, (date, date), follow_symlinks=False)


def commented(example: str) -> str:
    """Return the example as a configuration without settings.

    The defaults in the example are comments. Its keys and identities become comments.
    """
    lines = []
    is_example = False
    for line in example.splitlines():
        if line.startswith("["):
            is_example = bool(_EXAMPLE.match(line))
        lines.append(f"# {line}" if is_example and line and line[0] != "#" else line)
    return "\n".join(lines) + "\n"


def system_files(form: str) -> Iterator[tuple[Path, str]]:
    """Yield each file of the repository for the system, with its installed path."""
    places = {
        "systemd/*.service": f"{_SYSTEMD}/system",
        "systemd/*.socket": f"{_SYSTEMD}/system",
        "systemd/*.target": f"{_SYSTEMD}/system",
        "systemd/sysusers.d/*.conf": "usr/lib/sysusers.d",
        "systemd/tmpfiles.d/*.conf": "usr/lib/tmpfiles.d",
        "systemd/examples/**/*": "usr/share/doc/skragent/examples",
        "packaging/journal/*.catalog": f"{_SYSTEMD}/catalog",
        "packaging/completion/*.bash": "usr/share/bash-completion/completions",
        "packaging/completion/_*": f"usr/share/zsh/{_ZSH[form]}",
        "packaging/man/*.[1-8]": "usr/share/man",
    }
    if form == "deb":
        places["packaging/apparmor/*"] = str(APPARMOR.parent.relative_to("/"))
    for pattern, place in places.items():
        top = ROOT / pattern.split("*")[0].rpartition("/")[0]
        for file in sorted(ROOT.glob(pattern)):
            if not file.is_file():
                continue
            folder, name = place, str(file.relative_to(top))
            if place == "usr/share/man":
                folder, name = f"{place}/man{file.suffix[1:]}", f"{file.name}.gz"
            elif file.suffix == ".bash":
                name = file.stem
            yield file, f"{folder}/{name}"


def _add_system_files(root: Path, doc: Path, form: str) -> None:
    _put(HERE / "skragent", root / "usr/bin/skragent")
    for file, place in system_files(form):
        _put(file, root / place)
    example = ROOT / "config.example.toml"
    _put(example, doc / "examples/skragent.toml")
    config = root / CONFIG.relative_to("/")
    config.parent.mkdir(parents=True)
    config.write_text(commented(example.read_text()))


def _add_client(root: Path, form: str) -> None:
    """Make `import skragent.client` work in the system's Python.

    The link also shows the other packages of skragent, but not the vendored libraries.
    """
    place = {"deb": "python3/dist-packages", "rpm": f"python{abi()}/site-packages"}
    link = root / "usr/lib" / place[form] / "skragent"
    link.parent.mkdir(parents=True)
    link.symlink_to("../../skragent/skragent")


def _copy_own(library: Path, package: str) -> None:
    """Copy our own modules: those of the emulator, or all others."""
    emulator = ROOT / "skragent" / "emulator"
    for file in sorted((ROOT / "skragent").rglob("*")):
        is_emulator = emulator in file.parents
        if not file.is_file() or "__pycache__" in file.parts:
            continue
        if is_emulator == (package == EMULATOR):
            _put(file, library / file.relative_to(ROOT))


def _put(source: Path, target: Path) -> None:
    """Copy a file; compress it if the target ends in .gz."""
    target.parent.mkdir(parents=True, exist_ok=True)
    content = source.read_bytes()
    if target.suffix == ".gz":
        content = gzip.compress(content, 9, mtime=0)
    target.write_bytes(content)


def _is_script(path: Path) -> bool:
    return path.read_bytes().startswith(b"#!")
