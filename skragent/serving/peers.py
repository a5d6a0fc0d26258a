"""The identity of a peer, from the kernel.

The credentials are those of the process that called connect(2), at that time. A socket
that is inherited or passed on keeps them. The server reads them once, after accept.

The unit is that of the process, from /proc/PID/cgroup. A process id alone proves
nothing: the process may have ended, and another process may have the number. A peer
pidfd (SO_PEERPIDFD, Linux 6.5) refers to the process itself. While that process has not
ended, the number is its own. So the order is: open the pidfd, read the cgroup, check
that the process has not ended. Such a unit is *pinned*. Without peer pidfds the unit is
a guess, and is marked as not pinned.
"""

from __future__ import annotations

import array
import ctypes
import errno
import functools
import os
import select
import socket
import struct
from dataclasses import dataclass
from typing import Final

from skragent.serving.units import (
    NO_UNIT,
    CallerUnit,
    Hierarchy,
    find_hierarchy,
    parse_cgroup,
)

_SO_PEERGROUPS: Final = 59
_SO_PEERPIDFD: Final = 77
_UCRED: Final = struct.Struct("iII")  # pid, uid, gid
# The limit of socket.getsockopt: 256 groups.
_SMALL_BYTES: Final = 1024
# More than any directory service gives (Active Directory: 1015). The kernel's limit of
# 65536 would cost megabytes for each connection. A caller in more groups has none here.
MAX_GROUPS: Final = 4096
_NO_GROUPS: Final[frozenset[int]] = frozenset()
_MAX_CGROUP_BYTES: Final = 65536  # a dozen hierarchies with PATH_MAX each
# Callers of one unit have the same text, so it is parsed once. The limits bound the
# memory that callers can use.
_MAX_CACHED: Final = 256
_MAX_CACHED_BYTES: Final = 2048


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a connection."""

    uid: int
    gid: int
    pid: int
    groups: frozenset[int] = frozenset()  # supplementary ones
    unit: str = ""  # the systemd unit; empty: none, unknown, or not needed
    is_pinned: bool = False  # the unit is proved by a pidfd
    user_unit: str = ""  # inside `unit` user@UID.service; that user controls it

    @property
    def identity(self) -> tuple[object, ...]:
        """Return everything that rules can depend on: all but the process id."""
        return (
            *(self.uid, self.gid, self.groups),
            *(self.unit, self.is_pinned, self.user_unit),
        )

    def is_member(self, gid: int) -> bool:
        """Return whether the caller is in a group, primary or supplementary."""
        return gid == self.gid or gid in self.groups


# The peer of a TCP connection: no rule can match it.
UNIDENTIFIED: Final = Peer(uid=-1, gid=-1, pid=0)


def identify(
    connection: socket.socket,
    *,
    wants_unit: bool = False,
    gids: frozenset[int] = _NO_GROUPS,
) -> Peer:
    """Return the peer of a Unix socket.

    Args:
        connection: a connected Unix socket.
        wants_unit: also find the unit, which costs several times the rest.
        gids: the groups of all rules; the only ones kept of more than 256.

    Raises:
        OSError: the kernel does not identify the peer.
    """
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(raw)
    groups = _groups(connection, gids)
    if not wants_unit:
        return Peer(uid, gid, pid, groups)
    found, is_pinned = _find_unit(connection, pid)
    return Peer(uid, gid, pid, groups, found.unit, is_pinned, found.user_unit)


def probe_pidfd() -> bool:
    """Return whether this kernel has peer pidfds."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        try:
            os.close(ours.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD))
        except OSError:
            return False
    return True


def _find_unit(connection: socket.socket, pid: int) -> tuple[CallerUnit, bool]:
    """Return the unit of the caller, and whether it is pinned.

    A caller that has ended, or that /proc does not show, has no unit.
    """
    try:
        pidfd = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            return NO_UNIT, False  # the caller has ended
        return unit_of(pid), False
    try:
        return unit_behind(pidfd, pid)
    finally:
        os.close(pidfd)


def unit_behind(pidfd: int, pid: int) -> tuple[CallerUnit, bool]:
    """Return the unit of the process of a pidfd; no unit if it has ended.

    Args:
        pidfd: refers to the process.
        pid: its process id; 0 if it is outside of our PID namespace.
    """
    found = unit_of(pid)
    if found == NO_UNIT or _has_ended(pidfd):
        return NO_UNIT, False
    return found, True


def unit_of(pid: int) -> CallerUnit:
    """Return the unit of the process that has this process id now."""
    if pid <= 0:
        return NO_UNIT
    raw = _read_cgroup(pid)
    return (_parse_cached if len(raw) <= _MAX_CACHED_BYTES else _parse)(raw)


def _parse(raw: bytes) -> CallerUnit:
    return parse_cgroup(_text(raw), _hierarchy())


_parse_cached = functools.lru_cache(_MAX_CACHED)(_parse)


@functools.cache
def _hierarchy() -> Hierarchy | None:
    """Find the hierarchy of systemd, once: it is the same until the next boot."""
    return find_hierarchy(_text(_read_cgroup(1)))


def _read_cgroup(pid: int) -> bytes:
    return _read(f"/proc/{pid}/cgroup", _MAX_CGROUP_BYTES)


def _text(raw: bytes) -> str:
    return raw.decode("ascii", "replace")


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _read(path: str, limit: int) -> bytes:
    """Read a small file of /proc in one piece. Return nothing if that fails.

    A file as long as the limit may be incomplete, and counts as a failure.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        raw = os.read(fd, limit)
    except OSError:  # ESRCH: the process ended after open(2)
        return b""
    finally:
        os.close(fd)
    return raw if len(raw) < limit else b""


def _groups(connection: socket.socket, gids: frozenset[int]) -> frozenset[int]:
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _SMALL_BYTES)
    except OSError as error:
        if error.errno != errno.ERANGE:
            raise
        return gids.intersection(array.array("I", _many_groups(connection.fileno())))
    return frozenset(array.array("I", raw)) if raw else _NO_GROUPS


def _many_groups(fd: int) -> bytes:
    """Return the groups of a caller in more than 256 groups; none above the limit."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = (ctypes.c_uint * MAX_GROUPS)()
    length = ctypes.c_uint(ctypes.sizeof(buffer))
    outcome = libc.getsockopt(
        fd, socket.SOL_SOCKET, _SO_PEERGROUPS, buffer, ctypes.byref(length)
    )
    if outcome == 0:
        return bytes(buffer)[: length.value]
    if ctypes.get_errno() == errno.ERANGE:
        return b""
    raise OSError(ctypes.get_errno(), "SO_PEERGROUPS")
