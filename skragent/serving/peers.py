"""Who connected, by the kernel's word.

The credentials are those of the process that called connect(2), at that time: a
socket that was inherited or passed on keeps them. Asked for once, at accept.

The unit is that process's, read from /proc/PID/cgroup. A process id alone is no proof:
its process may have ended, and the number have gone to another. A peer pidfd
(SO_PEERPIDFD, Linux 6.5) holds on to the very process that SO_PEERCRED numbers; while
it has not ended, that number is its own. So the order is: pidfd, cgroup, and only then
the question whether it still lives. Such a unit is *pinned*. Without peer pidfds the
unit is a guess, and said to be.
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
# socket.getsockopt takes at most this; it is 256 groups.
_SMALL_BYTES: Final = 1024
# More than any directory gives (Active Directory: 1015). The kernel has 65536, which
# would cost megabytes for each connection: who is in more is in none here.
MAX_GROUPS: Final = 4096
_NO_GROUPS: Final[frozenset[int]] = frozenset()
_MAX_CGROUP_BYTES: Final = 65536  # a dozen hierarchies of PATH_MAX each
# Callers of one unit have the same text, so it is parsed once; longer ones are not
# remembered: these are all that strangers can make us keep.
_REMEMBERED: Final = 256
_REMEMBERED_BYTES: Final = 2048


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a connection."""

    uid: int
    gid: int
    pid: int
    groups: frozenset[int] = frozenset()  # supplementary ones
    unit: str = ""  # the systemd unit; empty: none, not known, or not asked for
    is_pinned: bool = False  # whether the unit was read while the process was held
    user_unit: str = ""  # inside `unit` user@UID.service, by that user's word

    @property
    def identity(self) -> tuple[object, ...]:
        """What rules can look at: all but the process's number."""
        return (
            *(self.uid, self.gid, self.groups),
            *(self.unit, self.is_pinned, self.user_unit),
        )

    def is_member(self, gid: int) -> bool:
        """Tell whether a group is the caller's, primary or supplementary."""
        return gid == self.gid or gid in self.groups


# Whoever reached a TCP socket: no rule can match it.
NOBODY: Final = Peer(uid=-1, gid=-1, pid=0)


def identify(
    connection: socket.socket,
    *,
    wants_unit: bool = False,
    gids: frozenset[int] = _NO_GROUPS,
) -> Peer:
    """Ask the kernel who is at the other end of a Unix socket.

    Args:
        connection: a connected Unix socket.
        wants_unit: also find the unit, which costs several times the rest.
        gids: those that rules name: of a caller in more than 256 groups, no others
            are kept.

    Raises:
        OSError: where the kernel does not tell; such a caller is not served.
    """
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(raw)
    groups = _groups(connection, gids)
    if not wants_unit:
        return Peer(uid, gid, pid, groups)
    found, is_pinned = _find_unit(connection, pid)
    return Peer(uid, gid, pid, groups, found.unit, is_pinned, found.user_unit)


def probe_pidfd() -> bool:
    """Tell whether this kernel has peer pidfds, by asking for our own."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        try:
            os.close(ours.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD))
        except OSError:
            return False
    return True


def _find_unit(connection: socket.socket, pid: int) -> tuple[CallerUnit, bool]:
    """Find the caller's unit, and whether it is pinned.

    Whatever cannot be read is no unit: the caller has gone, or /proc does not show it.
    """
    try:
        pidfd = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            return NO_UNIT, False  # the caller has gone
        return unit_of(pid), False
    try:
        return unit_behind(pidfd, pid)
    finally:
        os.close(pidfd)


def unit_behind(pidfd: int, pid: int) -> tuple[CallerUnit, bool]:
    """Read the unit of the process that a pidfd holds; none of one that has ended.

    Args:
        pidfd: holds the process.
        pid: its number, or the one that it had when it lived; 0 outside our namespace.
    """
    found = unit_of(pid)
    if found == NO_UNIT or _has_ended(pidfd):
        return NO_UNIT, False
    return found, True


def unit_of(pid: int) -> CallerUnit:
    """Read the unit of whichever process has this number now."""
    if pid <= 0:
        return NO_UNIT
    raw = _read_cgroup(pid)
    return (_parse_remembered if len(raw) <= _REMEMBERED_BYTES else _parse)(raw)


def _parse(raw: bytes) -> CallerUnit:
    return parse_cgroup(_text(raw), _hierarchy())


_parse_remembered = functools.lru_cache(_REMEMBERED)(_parse)


@functools.cache
def _hierarchy() -> Hierarchy | None:
    """Find out once which hierarchy systemd keeps: it is the same until a boot."""
    return find_hierarchy(_text(_read_cgroup(1)))


def _read_cgroup(pid: int) -> bytes:
    return _read(f"/proc/{pid}/cgroup", _MAX_CGROUP_BYTES)


def _text(raw: bytes) -> str:
    return raw.decode("ascii", "replace")


def has_hung_up(fd: int) -> bool:
    """Tell whether the other end of a connection has closed it wholly."""
    poll = select.poll()
    poll.register(fd, 0)  # POLLHUP comes unasked
    return bool(poll.poll(0))


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _read(path: str, limit: int) -> bytes:
    """Read a small file of /proc, which comes in one piece; nothing if it cannot be.

    What is as long as the limit may have been cut, and is nothing as well.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        raw = os.read(fd, limit)
    except OSError:  # ESRCH: it ended between the two
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
    """Read the groups of a caller that is in many of them; none of too many."""
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
