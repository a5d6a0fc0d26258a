"""Callers in other processes, as other users and in control groups of the tests."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.deadlines import DEADLINE_MILLISECONDS, DEADLINE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

# Each caller waits for a line, so that a test can move it to a control group first.
CONNECT = """
import json, os, socket, sys
sys.stdin.readline()
uid, gid, groups = json.loads(sys.argv[2])
os.setgroups(groups)
os.setresgid(gid, gid, gid)
os.setresuid(uid, uid, uid)
caller = socket.socket(socket.AF_UNIX)
caller.connect("\\0" + sys.argv[1])
print("connected", flush=True)
sys.stdin.readline()
"""
# Connects as one user, and passes the socket to a process of another user.
PASS_ON = """
import os, socket, sys
sys.stdin.readline()
ours, theirs = socket.socketpair()
if os.fork() == 0:
    ours.close()
    os.setresuid(5678, 5678, 5678)
    _, (passed,), _, _ = socket.recv_fds(theirs, 1, 1)
    taker = socket.socket(fileno=passed)
    taker.sendall(b"%d" % os.getpid())
    taker.recv(1)  # until the other end goes
    os._exit(0)
os.setresuid(1234, 1234, 1234)
caller = socket.socket(socket.AF_UNIX)
caller.connect("\\0" + sys.argv[1])
socket.send_fds(ours, [b"x"], [caller.fileno()])
caller.close()
print("connected", flush=True)
sys.stdin.readline()
"""
# Callers start as root, because not every user can reach every Python.
Who = tuple[int, int, list[int]]  # uid, gid, supplementary groups
ROOT: Who = (0, 0, [])


class Caller:
    """A child process that connects on request."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pid = process.pid

    def connect(self) -> None:
        """Connect, and return when that is done."""
        self._say()
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "connected\n"

    def end(self) -> None:
        """End the process, and wait for it."""
        self._say()
        self.process.wait(DEADLINE_SECONDS)

    def _say(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()


@contextlib.contextmanager
def listening() -> Iterator[tuple[socket.socket, str]]:
    """Listen at an abstract address, which any user can reach."""
    name = f"skragent-test-{os.getpid()}-{os.urandom(4).hex()}"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(DEADLINE_SECONDS)
        sock.bind(f"\0{name}")
        sock.listen()
        yield sock, name


@contextlib.contextmanager
def calling(name: str, *, script: str = CONNECT, who: Who = ROOT) -> Iterator[Caller]:
    """Start a caller. It changes its user before it connects."""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", script, name, json.dumps(who)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield Caller(process)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(DEADLINE_SECONDS)


def end_process(pid: int) -> None:
    """Kill a process, and wait until it has ended."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            poll.poll(DEADLINE_MILLISECONDS)
        finally:
            os.close(pidfd)


class Groups:
    """Control groups below a slice of the test, in the hierarchy of systemd."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self._made: list[Path] = []

    def put(self, pid: int, path: str) -> None:
        """Create the groups of a path, and move a process into the last group."""
        group = self.top
        for component in path.split("/"):
            group /= component
            if not group.exists():
                group.mkdir()
                self._made.append(group)
        (group / "cgroup.procs").write_text(str(pid))

    def remove(self) -> None:
        """End the processes in the groups, and remove the groups."""
        for group in reversed(self._made):
            for pid in (group / "cgroup.procs").read_text().split():
                end_process(int(pid))
            group.rmdir()
        self.top.rmdir()


def hierarchy() -> Path | None:
    """Return the mount point of systemd's hierarchy, or None."""
    unified = None
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        _, _, _, root, mounted_at, *_ = fields.split()
        name, _, options = kind.split(maxsplit=2)
        if name == "cgroup" and root == "/" and "name=systemd" in options.split(","):
            return Path(mounted_at)
        if name == "cgroup2" and root == "/":
            unified = Path(mounted_at)
    has_named = "name=systemd:" in Path("/proc/self/cgroup").read_text()
    return None if has_named else unified


@contextlib.contextmanager
def own_groups() -> Iterator[Groups]:
    """Create a slice for a test, and remove it. Skip the test if that fails."""
    mounted_at = hierarchy()
    if mounted_at is None:
        pytest.skip("needs systemd's cgroup hierarchy, mounted whole")
    top = mounted_at / f"skragenttest{os.getpid()}.slice"
    try:
        top.mkdir()
    except OSError as error:
        pytest.skip(f"needs to make a control group: {error.strerror}")
    groups = Groups(top)
    try:
        yield groups
    finally:
        groups.remove()
