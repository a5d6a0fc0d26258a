"""The VM's disk and kernel: mmdebstrap makes them of Debian's packages.

Later runs use the image again. Its name is a digest of the package list, the script
and the Debian release. mmdebstrap runs `image.sh` as its hook.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

_SUITE = "bookworm"
_PACKAGES = (
    "systemd", "systemd-sysv", "udev", "dbus", "qemu-guest-agent",
    "iproute2", "kmod", "procps", "curl", "python3", "tpm2-tools",
    "libtss2-tcti-device0", "apparmor", "cloud-init",
)  # fmt: skip
_SCRIPT = Path(__file__).with_name("image.sh")
_UNWANTED = ("/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*")
_BUILD_SECONDS = 900


def image_for(deb: Path, cache: Path) -> Path:
    """Return the directory of an image in which the package can be installed.

    The image has the package's dependencies, because the guest has no network to
    download them.
    """
    packages = sorted({*_PACKAGES, *_dependencies(deb)})
    made_of = "\n".join([_SUITE, *packages, _SCRIPT.read_text()])
    name = hashlib.sha256(made_of.encode()).hexdigest()[:12]
    image = cache / f"image-{name}"
    if not image.is_dir():
        for old in cache.glob("image-*"):
            shutil.rmtree(old)
        unfinished = cache / f"image-{name}.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        _build(packages, unfinished)
        unfinished.rename(image)
    return image


def _build(packages: list[str], out: Path) -> None:
    # mmdebstrap writes this file as another user, in its user namespace.
    out.chmod(0o777)
    command = [
        "mmdebstrap", "--variant=minbase", "--format=null",
        f"--include={','.join(packages)}",
        '--aptopt=Acquire::Languages "none"', "--dpkgopt=force-unsafe-io",
        *(f"--dpkgopt=path-exclude={path}" for path in _UNWANTED),
        "--skip=cleanup/apt",
        f'--customize-hook=sh "{_SCRIPT}" "{out}" "$1"',
        _SUITE, os.devnull, *_sources(),
    ]  # fmt: skip
    log = out / "mmdebstrap.log"
    with log.open("wb") as sink:
        built = subprocess.run(
            command, stdout=sink, stderr=sink, timeout=_BUILD_SECONDS, check=False
        )
    if built.returncode:
        last = log.read_text(errors="replace").splitlines()[-30:]
        raise RuntimeError("\n".join(["mmdebstrap could not build the VM:", *last]))
    out.chmod(0o755)


def _sources() -> list[str]:
    """Return this machine's package sources if they are of the same release.

    Otherwise mmdebstrap uses its default, which is Debian's mirror.
    """
    release = Path("/etc/os-release").read_text()
    if f"VERSION_CODENAME={_SUITE}\n" not in release:
        return []
    candidates = ("/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list")
    return [path for path in candidates if Path(path).exists()][:1]


def _dependencies(deb: Path) -> list[str]:
    """List the packages that a package depends on: the first of each alternative."""
    fields = "".join(
        subprocess.run(
            ["dpkg-deb", "--field", deb, field],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.replace("\n", "")
        + ","
        for field in ("Pre-Depends", "Depends")
    )
    names = (re.match(r"\s*([a-z0-9][a-z0-9+.-]*)", part) for part in fields.split(","))
    return [name[1] for name in names if name]
