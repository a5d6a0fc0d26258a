"""Identities of peers: of this process and of its children."""

from __future__ import annotations

import dataclasses
import errno
import os
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from skragent.serving import peers
from skragent.serving.peers import Peer, identify, probe_pidfd, unit_behind, unit_of
from skragent.serving.units import NO_UNIT, CallerUnit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SO_PEERGROUPS = 59
_SO_PEERPIDFD = 77
IN_UNIT = b"0::/system.slice/app.service\n"


class RefusingSocket(socket.socket):
    """A socket of a kernel that does not tell one thing."""

    option = _SO_PEERPIDFD
    refusal = errno.ENOPROTOOPT

    def getsockopt(self, level: int, option: int, *length: int) -> object:  # type: ignore[override]
        if option == self.option:
            raise OSError(self.refusal, os.strerror(self.refusal))
        return super().getsockopt(level, option, *length)


@pytest.fixture
def connection() -> Iterator[RefusingSocket]:
    ours, theirs = socket.socketpair()
    with theirs, RefusingSocket(fileno=ours.detach()) as refusing:
        yield refusing


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - as plain as can be


def test_this_process_is_identified() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        groups = frozenset(os.getgroups())
        assert identify(ours) == Peer(os.getuid(), os.getgid(), os.getpid(), groups)


def test_the_unit_is_not_read_if_no_rule_has_a_unit(
    connection: RefusingSocket,
) -> None:
    connection.refusal = errno.EIO  # would be a caller without a unit
    peer = identify(connection)
    assert (peer.unit, peer.is_pinned) == ("", False)


@pytest.mark.parametrize("wants_unit", [False, True])
def test_no_descriptor_leaks(*, wants_unit: bool) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        before = open_descriptors()
        identify(ours, wants_unit=wants_unit)
        probe_pidfd()
        assert open_descriptors() == before
        theirs.send(b"x")
        assert ours.recv(1) == b"x"


@pytest.mark.parametrize("refusal", [errno.ESRCH, errno.EINVAL, errno.ENODATA])
def test_a_caller_without_a_pidfd_has_no_unit(
    connection: RefusingSocket, refusal: int
) -> None:
    connection.refusal = refusal
    peer = identify(connection, wants_unit=True)
    assert (peer.uid, peer.unit, peer.is_pinned) == (os.getuid(), "", False)


def test_without_peer_pidfds_no_unit_is_pinned(connection: RefusingSocket) -> None:
    peer = identify(connection, wants_unit=True)
    assert (peer.pid, peer.is_pinned) == (os.getpid(), False)


def test_an_unidentified_caller_is_an_error(
    connection: RefusingSocket,
) -> None:
    connection.option = socket.SO_PEERCRED
    with pytest.raises(OSError, match="Protocol not available"):
        identify(connection)


def test_a_process_that_has_ended_has_no_unit() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        pidfd = os.pidfd_open(child.pid)
        try:
            child.kill()
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
            # It was not waited for yet.
            assert unit_behind(pidfd, child.pid) == (NO_UNIT, False)
            child.wait()
            assert unit_behind(pidfd, child.pid) == (NO_UNIT, False)
        finally:
            os.close(pidfd)


@pytest.mark.parametrize("pid", [-1, 0, 2**31 - 1])
def test_an_unused_process_id_has_no_unit(pid: int) -> None:
    assert unit_of(pid) == NO_UNIT


def test_a_possibly_truncated_file_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("0::/app.service\n")
    path = str(tmp_path / "cgroup")
    assert peers._read(path, 17) == b"0::/app.service\n"
    assert peers._read(path, 16) == b""


def test_an_unreadable_file_has_no_unit(tmp_path: Path) -> None:
    assert peers._read(str(tmp_path / "none"), 10) == b""
    assert peers._read(str(tmp_path), 10) == b""


@pytest.mark.skipif(not probe_pidfd(), reason="needs peer pidfds (Linux 6.5)")
def test_the_probe_finds_peer_pidfds() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        pidfd = ours.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
        try:
            assert not peers._has_ended(pidfd)
        finally:
            os.close(pidfd)


class Proc:
    """A /proc that tells what control groups processes are in."""

    def __init__(self) -> None:
        self.files = {1: b"0::/init.scope\n"}

    def read_cgroup(self, pid: int) -> bytes:
        return self.files.get(pid, b"")


def forget_what_was_read() -> None:
    peers._hierarchy.cache_clear()
    peers._parse_cached.cache_clear()


@pytest.fixture
def proc(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proc]:
    substitute = Proc()
    substitute.files[os.getpid()] = IN_UNIT
    monkeypatch.setattr(peers, "_read_cgroup", substitute.read_cgroup)
    forget_what_was_read()
    yield substitute
    forget_what_was_read()


@pytest.mark.usefixtures("proc")
def test_a_peer_has_no_unit_unless_it_is_needed(
    connection: RefusingSocket,
) -> None:
    connection.option = -1  # it tells everything
    assert unit_of(os.getpid()).unit == "app.service"
    peer = identify(connection)
    assert (peer.unit, peer.is_pinned) == ("", False)


def test_an_ended_process_does_not_get_the_unit_of_its_process_id(
    proc: Proc,
) -> None:
    """The number may have gone to another process meanwhile."""
    with subprocess.Popen(["sleep", "60"]) as child:
        proc.files[child.pid] = IN_UNIT
        pidfd = os.pidfd_open(child.pid)
        try:
            assert unit_behind(pidfd, child.pid) == (CallerUnit("app.service"), True)
            child.kill()
            child.wait()
            assert unit_behind(pidfd, child.pid) == (NO_UNIT, False)
        finally:
            os.close(pidfd)


@pytest.mark.usefixtures("proc")
@pytest.mark.parametrize("refusal", [errno.ESRCH, errno.EINVAL, errno.ENODATA])
def test_a_caller_without_a_pidfd_does_not_get_the_unit_of_its_process_id(
    connection: RefusingSocket, refusal: int
) -> None:
    connection.refusal = refusal
    assert unit_of(os.getpid()).unit == "app.service"
    assert identify(connection, wants_unit=True).unit == ""


@pytest.mark.usefixtures("proc")
def test_without_peer_pidfds_the_unit_is_that_of_the_process_id(
    connection: RefusingSocket,
) -> None:
    peer = identify(connection, wants_unit=True)
    assert (peer.unit, peer.is_pinned) == ("app.service", False)


def test_the_unit_is_read_from_the_hierarchy_of_pid_1(proc: Proc) -> None:
    """A process outside of systemd's hierarchy may create groups with any name."""
    proc.files[1] = b"1:name=systemd:/\n0::/init.scope\n"
    proc.files[7] = b"1:name=systemd:/evil.service\n" + IN_UNIT
    assert unit_of(7).unit == "app.service"


@pytest.mark.parametrize(("size", "count"), [(2048, 1), (2049, 0)])
def test_long_cgroup_texts_are_not_cached(proc: Proc, size: int, count: int) -> None:
    text = IN_UNIT.rstrip() + b"/"
    proc.files[7] = text + b"x" * (size - len(text))
    assert unit_of(7).unit == "app.service"
    assert peers._parse_cached.cache_info().currsize == count


def test_a_caller_with_unreadable_groups_is_an_error(
    connection: RefusingSocket,
) -> None:
    connection.option, connection.refusal = _SO_PEERGROUPS, errno.EACCES
    with pytest.raises(PermissionError):
        identify(connection)


@pytest.mark.parametrize(
    "changes",
    [
        {"uid": 8},
        {"gid": 8},
        {"groups": frozenset({8})},
        {"unit": "other.service"},
        {"is_pinned": False},
        {"user_unit": "other.service"},
    ],
)
def test_identities_differ_in_every_attribute_of_rules(
    changes: dict[str, object],
) -> None:
    peer = Peer(7, 7, 1, frozenset({7}), "app.service", is_pinned=True, user_unit="u")
    other = dataclasses.replace(peer, **changes)  # type: ignore[arg-type]
    assert other.identity != peer.identity


def test_identities_do_not_contain_the_process_id() -> None:
    assert Peer(7, 7, pid=1).identity == Peer(7, 7, pid=2).identity
