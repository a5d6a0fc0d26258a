"""A Debian in a folder, to install packages in. No systemd runs in it.

A substitute for systemctl records the commands for systemd. The real systemctl runs the
commands that need no systemd, such as `enable`.
"""

from __future__ import annotations

import contextlib
import hashlib
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / "build" / "cache"

# Files that no test needs and that take long to unpack.
_UNWANTED = ("/usr/share/man/*", "/usr/share/locale/*", "/usr/share/i18n/*")

_SYSTEMCTL = """\
#!/bin/sh
echo "$*" >>/systemctl.log
for unit; do :; done
case "$*" in
  --root=*) exec systemctl.real "$@" ;;
  *is-active*) exec test -e /agent-runs ;;
  *daemon-reload*) cat /usr/lib/systemd/system/skragent*.socket >/systemctl.loaded ;;
  "disable --now "*) shift 2 && exec systemctl.real --root=/ disable "$@" ;;
  "show "*) cat /systemctl.loaded ;;
  *is-enabled*) find /etc/systemd/system -name "$unit" -printf 'enabled\\n' ;;
esac
"""

_DEVICES = 'mount --rbind /dev "$1/dev" && mount -t proc proc "$1/proc" && '
_ENTER = _DEVICES + 'root=$1 && shift && exec chroot "$root" "$@"'
_STAY_OUTSIDE = _DEVICES + 'shift && exec "$@"'


class Chroot:
    """The folder. Commands see only its contents."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return self._run(_ENTER, command)

    def must(self, *command: str) -> str:
        return _said(command, self.run(*command))

    def rpm(self, *arguments: str | Path) -> str:
        """Run this machine's rpm on the folder, as an installer does."""
        command = ("rpm", f"--root={self.root}", "--dbpath=/var/lib/rpm")
        whole = (*command, *map(str, arguments))
        return _said(whole, self._run(_STAY_OUTSIDE, whole))

    def _run(
        self, script: str, command: tuple[str, ...]
    ) -> subprocess.CompletedProcess[str]:
        enter = ("unshare", "--mount", "--pid", "--fork", "sh", "-c", script, "-")
        return subprocess.run(
            [*enter, self.root, *command],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def install(self, *packages: Path) -> str:
        for package in packages:
            shutil.copy(package, self.root / "root")
        names = [f"/root/{package.name}" for package in packages]
        return self.must(
            "dpkg", "--force-unsafe-io", "--force-confold", "--install", *names
        )

    def pretend_systemd(self) -> None:
        """Pretend from now on that systemd runs."""
        (self.root / "run/systemd/system").mkdir(parents=True, exist_ok=True)
        systemctl = self.root / "usr/bin/systemctl"
        systemctl.rename(systemctl.with_suffix(".real"))
        systemctl.write_text(_SYSTEMCTL)
        systemctl.chmod(0o755)
        self.run("systemctl", "daemon-reload")
        self.systemctl_commands()

    def systemctl_commands(self) -> list[str]:
        """Return the commands for systemd since the last call."""
        log = self.root / "systemctl.log"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    def files(self) -> set[str]:
        """List all files except logs, caches and temporary files."""
        found = (p.relative_to(self.root) for p in self.root.rglob("*"))
        passing = ("proc", "dev", "var/log", "var/lib/dpkg", "var/cache", "root", "tmp")
        return {str(p) for p in found if not str(p).startswith(passing)}


def make_base(depends: str) -> Chroot:
    """Return a Debian with the dependencies of a package; it is cached."""
    names = sorted(set(re.findall(r"(?:^|, )([a-z0-9.+-]+)", depends)))
    names = [name for name in names if name != "skragent"]
    suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
    made_of = " ".join([suite, *names, *_UNWANTED])
    key = hashlib.sha256(made_of.encode()).hexdigest()[:12]
    root = CACHE / f"{suite}-{key}"
    if not root.exists():
        part = root.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        CACHE.mkdir(parents=True, exist_ok=True)
        command = [
            *("mmdebstrap", "--quiet", "--variant=minbase", "--format=directory"),
            *('--aptopt=Acquire::Languages "none"', "--dpkgopt=force-unsafe-io"),
            *(f"--dpkgopt=path-exclude={path}" for path in _UNWANTED),
            f"--include={','.join([*names, 'init-system-helpers'])}",
            *(suite, str(part)),
        ]
        subprocess.run(command, check=True)
        part.rename(root)
    return Chroot(root)


@contextlib.contextmanager
def a_copy_of(original: Chroot, folder: Path) -> Iterator[Chroot]:
    """Return a copy of a Debian; changes do not affect the original.

    The copy is an overlay if the kernel supports it for this file system.
    """
    root, upper, work = (folder / name for name in ("root", "upper", "work"))
    for path in (root, upper, work):
        path.mkdir(parents=True)
    layers = f"lowerdir={original.root},upperdir={upper},workdir={work}"
    mount = ["mount", "-t", "overlay", "-o", layers, "overlay", str(root)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        copy = ["cp", "-a", "--reflink=auto", f"{original.root}/.", str(root)]
        subprocess.run(copy, check=True)
        yield Chroot(root)
        return
    try:
        yield Chroot(root)
    finally:
        subprocess.run(["umount", root], check=True)


def _said(command: tuple[str, ...], done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, f"{command}:\n{done.stdout}"
    return done.stdout
