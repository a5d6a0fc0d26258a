"""A Debian of its own in a folder, to install packages in: no systemd runs in it.

Where one would be asked, a substitute writes down what it was told; what needs none,
such as enabling units, the real systemctl does.
"""

from __future__ import annotations

import hashlib
import platform
import re
import shutil
import subprocess
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / "build" / "cache"

_SYSTEMCTL = """\
#!/bin/sh
echo "$*" >>/systemctl.log
for unit; do :; done
case "$*" in
  --root=*) exec systemctl.real "$@" ;;
  *is-active*) exec test -e /agent-runs ;;
  *is-enabled*) find /etc/systemd/system -name "$unit" -printf 'enabled\\n' ;;
esac
"""

_ENTER = """\
mount --rbind /dev "$1/dev" && mount -t proc proc "$1/proc" &&
root=$1 && shift && exec chroot "$root" "$@"
"""


class Chroot:
    """The folder; commands see nothing but what is in it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        enter = ("unshare", "--mount", "--pid", "--fork", "sh", "-c", _ENTER, "-")
        return subprocess.run(
            [*enter, self.root, *command],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def must(self, *command: str) -> str:
        done = self.run(*command)
        assert done.returncode == 0, f"{command}:\n{done.stdout}"
        return done.stdout

    def install(self, *packages: Path) -> str:
        for package in packages:
            shutil.copy(package, self.root / "root")
        names = [f"/root/{package.name}" for package in packages]
        return self.must("dpkg", "--install", *names)

    def pretend_systemd(self) -> None:
        """From here on systemd seems to run."""
        (self.root / "run/systemd/system").mkdir(parents=True, exist_ok=True)
        systemctl = self.root / "usr/bin/systemctl"
        systemctl.rename(systemctl.with_suffix(".real"))
        systemctl.write_text(_SYSTEMCTL)
        systemctl.chmod(0o755)

    def told_systemd(self) -> list[str]:
        """Take what it was told since the last time."""
        log = self.root / "systemctl.log"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    def files(self) -> set[str]:
        """List everything but what is of the system's moment."""
        found = (p.relative_to(self.root) for p in self.root.rglob("*"))
        passing = ("proc", "dev", "var/log", "var/lib/dpkg", "var/cache", "root", "tmp")
        return {str(p) for p in found if not str(p).startswith(passing)}


def make_chroot(root: Path, depends: str) -> Chroot:
    """Unpack a Debian that has what a package depends on, made once."""
    names = sorted(set(re.findall(r"(?:^|, )([a-z0-9.+-]+)", depends)))
    names = [name for name in names if name != "skragent"]
    suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
    key = hashlib.sha256(" ".join([suite, *names]).encode()).hexdigest()[:12]
    tar = CACHE / f"{suite}-{key}.tar"
    if not tar.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        include = f"--include={','.join([*names, 'init-system-helpers'])}"
        part = tar.with_suffix(".part.tar")
        command = ["mmdebstrap", "--quiet", "--variant=minbase", include, suite, part]
        subprocess.run(command, check=True)
        part.rename(tar)
    root.mkdir(parents=True, exist_ok=True)
    unpack = ["tar", "--extract", "--file", tar, "--directory", root]
    subprocess.run([*unpack, "--exclude=./dev/*"], check=True)
    return Chroot(root)
