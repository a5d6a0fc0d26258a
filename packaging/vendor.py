"""The vendored libraries: downloaded by the lock, compiled, pruned, stripped.

pip compares the hash of each download before it opens the file, also of the tools that
compile the two sdists. The result is kept until a lock changes, so a second build takes
seconds.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path
from typing import Final

from common import FROM_SOURCE, HERE, LIBRARY, PYTHON, ROOT, run

_LOCKS: Final = {"skragent": "requirements.lock", "skragent-emulator": "emulator.lock"}

# Files that a library does not need to run: tests and sources.
_USELESS_FOLDERS: Final = ("tests", "bin", "__pycache__")
_USELESS_SUFFIXES: Final = {".pyx", ".pxd", ".pyi", ".c", ".h", ".pxi", ".cpp"}
# Files of *.dist-info that describe the installing machine.
_ABOUT_HERE: Final = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}


def fetch(work: Path) -> None:
    """Download all distributions to WORK/dist and install them in WORK/library.

    WORK/library has a folder per package, whose contents go to LIBRARY.
    """
    stamp = work / "fetched"
    key = _key()
    if stamp.exists() and stamp.read_text() == key:
        return
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    pip = _make_tools(work)
    source = ("--no-binary", ",".join(FROM_SOURCE))
    build = (*source, "--require-hashes", "--no-deps", "--no-build-isolation")
    for package, lock in _LOCKS.items():
        folder = work / "dist" / package
        run([*pip, "download", *build, "--dest", folder, "-r", HERE / lock])
        wheels = work / "wheels" / package
        wheels.mkdir(parents=True)
        for file in sorted(folder.iterdir()):
            if file.suffix == ".whl":
                shutil.copy(file, wheels)
            else:
                _compile(pip, file, wheels, work)
        _install(pip, wheels, work / "library" / package)
    stamp.write_text(key)


def install(work: Path, package: str, target: Path) -> None:
    """Copy a package's libraries into a folder."""
    shutil.copytree(work / "library" / package, target)


def _install(pip: tuple[str, ...], folder: Path, target: Path) -> None:
    """Unpack wheels into a folder, remove useless files, and byte-compile the rest."""
    wheels = sorted(folder.iterdir())
    offline = ("--no-index", "--no-deps", "--no-compile", "--no-warn-conflicts")
    run([*pip, "install", *offline, "--target", target, *wheels])
    for path in sorted(target.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if path.name in _USELESS_FOLDERS:
                shutil.rmtree(path)
        elif path.suffix in _USELESS_SUFFIXES or path.name in _ABOUT_HERE:
            path.unlink()
    libraries = shared_objects(target)
    if libraries:
        run(["strip", "--strip-unneeded", *libraries])
    byte_compile(target)


def shared_objects(folder: Path) -> list[Path]:
    """List the shared objects below a folder."""
    return [path for path in sorted(folder.rglob("*.so*")) if path.is_file()]


def byte_compile(folder: Path, *, place: Path = LIBRARY) -> None:
    """Compile the modules of an installed path; the interpreter ignores their dates.

    The hash seed is fixed, because sets of constants are written in hash order. One
    process compiles all, because the modules before a module influence its bytes.
    """
    mode = ("--invalidation-mode", "unchecked-hash")
    places = ("-s", folder, "-p", place)
    run(
        [PYTHON, "-S", "-m", "compileall", "-q", *mode, *places, folder],
        environment={"PYTHONHASHSEED": "0"},
    )


def _key() -> str:
    parts = [HERE / "build.lock", *(HERE / lock for lock in _LOCKS.values())]
    parts += [Path(__file__), ROOT / ".ci" / "pkg-config-without-fapi"]
    content = b"".join(part.read_bytes() for part in parts)
    return hashlib.sha256(content + sys.version.encode()).hexdigest()


def _pip(work: Path) -> tuple[str, ...]:
    python = str(work / "tools" / "bin" / "python")
    return (python, "-I", "-m", "pip", "--quiet", "--disable-pip-version-check")


def _make_tools(work: Path) -> tuple[str, ...]:
    run([PYTHON, "-m", "venv", work / "tools"])
    pip = _pip(work)
    exact = ("--require-hashes", "--no-deps", "--only-binary", ":all:")
    run([*pip, "install", *exact, "-r", HERE / "build.lock"])
    return pip


def _compile(pip: tuple[str, ...], sdist: Path, wheels: Path, work: Path) -> None:
    """Make a wheel with Debian's hardening flags and without paths of this machine."""
    without_fapi = work / "pkg-config"
    run(["bash", ROOT / ".ci" / "pkg-config-without-fapi", without_fapi])
    flags = {
        name: run(
            ["dpkg-buildflags", "--get", name],
            environment={"DEB_BUILD_MAINT_OPTIONS": "hardening=+all"},
        ).strip()
        for name in ("CFLAGS", "CPPFLAGS", "LDFLAGS")
    }
    # No debugging symbols: strip removes them, but they change the build id. -O1 halves
    # the time of compilation; these libraries mostly wait for a TPM or for systemd.
    flags["CFLAGS"] += " -g0 -O1"
    offline = ("--no-deps", "--no-index", "--no-build-isolation")
    run(
        [*pip, "wheel", *offline, "--wheel-dir", wheels, sdist],
        environment={
            **flags,
            "PKG_CONFIG_LIBDIR": str(without_fapi),
            "PKG_CONFIG_PATH": "",
            "PYTHONHASHSEED": "0",
        },
    )
