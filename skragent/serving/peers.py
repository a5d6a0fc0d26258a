"""Who connected, by the kernel's word.

The credentials are those of the process that called connect(2), at that time: a
socket that was inherited or passed on keeps them. Asked for once, at accept.
"""

from __future__ import annotations

import array
import ctypes
import errno
import socket
import struct
from dataclasses import dataclass
from typing import Final

_SO_PEERGROUPS: Final = 59
_UCRED: Final = struct.Struct("iII")  # pid, uid, gid
# socket.getsockopt takes at most this; it is 256 groups.
_SMALL_BYTES: Final = 1024
_NGROUPS_MAX: Final = 65536  # limits.h


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a connection."""

    uid: int
    gid: int
    pid: int
    groups: frozenset[int] = frozenset()  # supplementary ones

    def is_member(self, gid: int) -> bool:
        """Tell whether a group is the caller's, primary or supplementary."""
        return gid == self.gid or gid in self.groups


# Whoever reached a TCP socket: no rule can match it.
NOBODY: Final = Peer(uid=-1, gid=-1, pid=0)


def identify(fd: int) -> Peer:
    """Ask the kernel who is at the other end of a Unix socket.

    Raises:
        OSError: where the kernel does not tell; such a caller is not served.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=fd)
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        pid, uid, gid = _UCRED.unpack(raw)
        return Peer(uid=uid, gid=gid, pid=pid, groups=_groups(connection))
    finally:
        connection.detach()  # the descriptor is its transport's


def _groups(connection: socket.socket) -> frozenset[int]:
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _SMALL_BYTES)
    except OSError as error:
        if error.errno != errno.ERANGE:
            raise
        raw = _many_groups(connection.fileno())
    return frozenset(array.array("I", raw))


def _many_groups(fd: int) -> bytes:
    """Read the groups of a caller that is in very many of them."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = (ctypes.c_uint * _NGROUPS_MAX)()
    length = ctypes.c_uint(ctypes.sizeof(buffer))
    outcome = libc.getsockopt(
        fd, socket.SOL_SOCKET, _SO_PEERGROUPS, buffer, ctypes.byref(length)
    )
    if outcome != 0:
        raise OSError(ctypes.get_errno(), "SO_PEERGROUPS")
    return bytes(buffer)[: length.value]
