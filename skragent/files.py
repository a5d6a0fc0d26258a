"""Read files that the configuration or a command line names: regular, and bounded.

open(2) of a FIFO waits until another process opens the other end, and a read of a FIFO
or a device may wait or never end. So such files are read with these functions only.
securityfs and procfs have regular files.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing import BinaryIO

_KINDS: Final = (
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)


class NotRegularError(OSError):
    """The path does not name a regular file."""


def open_regular(path: str) -> BinaryIO:
    """Open a regular file for reading; symbolic links are followed.

    Raises:
        NotRegularError: a FIFO, a device, a socket or a directory.
        OSError: it cannot be opened. `strerror` is always set.
    """
    try:
        # Opening some devices has an effect, so the path is checked first. The open
        # file is checked again, because the path may name another file by then.
        _require_regular(os.stat(path).st_mode)  # noqa: PTH116 - as os.open
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except ValueError as error:  # a NUL, or half a surrogate pair
        raise OSError(errno.EINVAL, "no file can have this name") from error
    try:
        _require_regular(os.fstat(fd).st_mode)
        return os.fdopen(fd, "rb")
    except BaseException:
        os.close(fd)
        raise


def read_regular(path: str, *, max_bytes: int) -> bytes:
    """Read a complete regular file.

    Raises:
        NotRegularError: see `open_regular`.
        OSError: it cannot be read, or it is longer than `max_bytes` (EFBIG).
    """
    with open_regular(path) as file:
        return read_whole(file, max_bytes=max_bytes)


def read_whole(file: BinaryIO, *, max_bytes: int) -> bytes:
    """Read an open file to its end, without waiting for more than it has.

    Raises:
        OSError: see `read_regular`; EAGAIN: there is nothing to read yet.
    """
    data: bytes | None = file.read(max_bytes + 1)
    if data is None:  # a kernel's file, such as /proc/kmsg
        raise OSError(errno.EAGAIN, "there is nothing to read yet")
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, f"the file is longer than {max_bytes} bytes")
    return data


def _require_regular(mode: int) -> None:
    if stat.S_ISREG(mode):
        return
    kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "another kind")
    raise NotRegularError(errno.EINVAL, f"this is {kind}, not a regular file")
