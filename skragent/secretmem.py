"""Memory for keys that only the agent and the releaser can read.

An arena is a mapping of memfd_secret(2). It is outside of the kernel's direct map, so
even root cannot read it through /proc/PID/mem. It is never swapped, dumped or inherited
by fork. Kernels without it (before 5.14, or without `secretmem.enable=1` before 6.5)
and sandboxes that forbid it use a locked memfd that is left out of core dumps. `kind`
tells the two apart, and the creator of an arena reports it.

ctypes maps the memory, because `mmap.mmap` keeps a duplicate of the descriptor: through
pidfd_getfd(2) root could map that descriptor and read every key.

`skragent.job.Slice` describes the positions of keys in an arena.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import re
import resource
import weakref
from typing import Final, Literal

from skragent.errors import SecretMemoryError

Kind = Literal["memfd_secret", "mlock"]

# The code of an error that a retry cannot change: the descriptor has another content.
CONTENT: Final = "memory.content"

# A job of MAX_KEYS keys needs 4 MiB.
MAX_ARENA_BYTES: Final = 64 * 1024 * 1024

_SYS_MEMFD_SECRET: Final = 447  # the same number on every architecture
_PR_SET_DUMPABLE: Final = 4
_MAP_FAILED: Final = ctypes.c_void_p(-1).value
# The errno of a kernel without memfd_secret, and that of a seccomp filter.
_NOT_AVAILABLE: Final = (errno.ENOSYS, errno.EPERM)
_FIRST_WITH_SECRET: Final = (5, 14)
_FIRST_BY_DEFAULT: Final = (6, 5)  # without secretmem.enable=1
# RLIMIT_MEMLOCK: mmap(2) of a locked mapping fails with EAGAIN, mlock(2) with the rest.
_LOCKED_LIMIT: Final = (errno.EAGAIN, errno.ENOMEM, errno.EPERM)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.mlock.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.explicit_bzero.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.explicit_bzero.restype = None


class Arena:
    """One mapping of secret memory. Made by `create_arena` and `attach_arena`.

    The mapping exists as long as the arena or any view of it. So a slow reader keeps
    its data. After the last of them it is wiped and unmapped, unless the content is
    preserved.
    """

    def __init__(self, fd: int, size: int, kind: Kind) -> None:
        self.fd = fd  # -1 after close_fd
        self.size = size
        self.kind: Kind = kind
        self._address = _map(fd, size, kind)
        whole = (ctypes.c_ubyte * size).from_address(self._address)
        # Views refer to the array, so this runs after the last view is gone. It does
        # not run at exit, when a view in use must stay mapped.
        self._wipes_at_end = [True]
        end = weakref.finalize(whole, _end, self._address, size, self._wipes_at_end)
        end.atexit = False
        self._whole = memoryview(whole).cast("B")

    @property
    def is_secret(self) -> bool:
        """Whether the kernel hides the memory even from root (memfd_secret)."""
        return self.kind == "memfd_secret"

    def view(self, offset: int, length: int) -> memoryview:
        """Return a writable view that keeps the mapping alive."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise ValueError(f"{offset}+{length} is outside of {self.size} bytes")
        return self._whole[offset : offset + length]

    def wipe(self) -> None:
        """Zero the whole arena at once, also for existing views."""
        _libc.explicit_bzero(self._address, self.size)

    def preserve(self, *, is_preserved: bool) -> None:
        """Set whether the content outlives this mapping, through another descriptor.

        Then the end of the mapping does not wipe it. `wipe` always does.
        """
        self._wipes_at_end[0] = not is_preserved

    def close_fd(self) -> None:
        """Close the descriptor after the child has inherited it; the mapping stays."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def create_arena(size: int) -> Arena:
    """Create an arena of at least `size` bytes (whole pages, all zero).

    Its `fd` is close-on-exec and stays open for the hand-over until `close_fd`.

    Raises:
        SecretMemoryError: memory.locked_limit if RLIMIT_MEMLOCK is too small.
    """
    if not 0 < size <= MAX_ARENA_BYTES:
        raise ValueError(f"an arena has 1 to {MAX_ARENA_BYTES} bytes, not {size}")
    size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    fd, kind = _open_descriptor()
    try:
        os.ftruncate(fd, size)
        if kind == "mlock":
            # Shrinking it under a mapping would cause SIGBUS.
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        return Arena(fd, size, kind)
    except OSError as error:
        os.close(fd)
        raise _failure("cannot make secret memory", error.errno or 0) from error
    except SecretMemoryError:
        os.close(fd)
        raise


def attach_arena(fd: int, size: int) -> Arena:
    """Map an arena that another process created, and close the inherited descriptor."""
    try:
        _require_size(fd, size)
        arena = Arena(fd, size, _kind_of(fd))
    except SecretMemoryError:
        with contextlib.suppress(OSError):
            os.close(fd)
        raise
    arena.close_fd()
    return arena


def adopt_arena(fd: int) -> Arena:
    """Map an arena that an earlier agent created, and close the descriptor.

    Only memfd_secret is accepted: other memory can be read and swapped while no process
    has it mapped and locked.
    """
    try:
        size = os.fstat(fd).st_size
        is_ours = 0 < size <= MAX_ARENA_BYTES and is_secret_memory(fd)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.close(fd)
        raise _failure(
            "a descriptor of the previous agent", error.errno or 0
        ) from error
    if is_ours:
        return attach_arena(fd, size)
    os.close(fd)
    raise SecretMemoryError(
        "an inherited descriptor is not secret memory of skragent", code=CONTENT
    )


def forbid_core_dumps() -> None:
    """Forbid core dumps of this process, and ptrace(2) by its own user."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise _failure("PR_SET_DUMPABLE", ctypes.get_errno())


def _open_descriptor() -> tuple[int, Kind]:
    fd: int = _libc.syscall(
        ctypes.c_long(_SYS_MEMFD_SECRET), ctypes.c_uint(os.O_CLOEXEC)
    )
    if fd >= 0:
        return fd, "memfd_secret"
    if (number := ctypes.get_errno()) not in _NOT_AVAILABLE:
        raise _failure("memfd_secret", number)
    return _open_locked_descriptor(), "mlock"


def explain_fallback() -> str:
    """Return why memfd_secret(2) is unavailable, with the remedy; else empty."""
    fd: int = _libc.syscall(
        ctypes.c_long(_SYS_MEMFD_SECRET), ctypes.c_uint(os.O_CLOEXEC)
    )
    number = ctypes.get_errno()
    if fd >= 0:
        os.close(fd)
        return ""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:  # noqa: PTH123 - spares an import
            status = file.read()
    except OSError:
        status = ""
    is_filtered = "\nSeccomp:\t2\n" in status
    return explain_refusal(number, os.uname().release, is_filtered=is_filtered)


def explain_refusal(number: int, release: str, *, is_filtered: bool) -> str:
    """Distinguish a seccomp filter from a kernel without memfd_secret(2). Pure.

    Args:
        number: errno of the call. The kernel itself never sets EPERM (memfd_secret(2)).
        release: the kernel's release, such as 6.1.0-30-amd64.
        is_filtered: whether this process has a seccomp filter, which may set ENOSYS.
    """
    filtered = (
        "a seccomp filter forbids memfd_secret: admit it (SystemCallFilter= of the"
        " unit, or the container's seccomp profile)"
    )
    if number == errno.EPERM:
        return filtered
    parts = [int(part) for part in re.findall(r"\d+", release)[:2]]
    version = (*parts, 0, 0)[:2]
    if version < _FIRST_WITH_SECRET:
        return "this kernel has no memfd_secret: boot 5.14 or newer"
    if version < _FIRST_BY_DEFAULT:
        return "this kernel has no memfd_secret: boot it with secretmem.enable=1"
    if is_filtered:
        return (
            f"{filtered}; or this kernel was booted with secretmem.enable=0 or built"
            " without CONFIG_SECRETMEM"
        )
    return (
        "this kernel was booted with secretmem.enable=0, or built without"
        " CONFIG_SECRETMEM"
    )


def _open_locked_descriptor() -> int:
    try:
        return os.memfd_create("skragent", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        raise _failure("memfd_create", error.errno or 0) from error


def _require_size(fd: int, size: int) -> None:
    """Require the announced size: access beyond the end would cause SIGBUS."""
    try:
        actual = os.fstat(fd).st_size
    except OSError as error:
        number = error.errno or 0
        raise _failure("no secret memory was inherited", number) from error
    if size <= 0 or actual != size:
        raise SecretMemoryError(
            f"the secret memory has {actual} bytes, not the {size} announced"
        )


def _kind_of(fd: int) -> Kind:
    """Return the kind of a descriptor; keys are written only into these two kinds.

    Raises:
        SecretMemoryError: it is of another kind.
    """
    if is_secret_memory(fd):
        return "memfd_secret"
    try:
        fcntl.fcntl(fd, fcntl.F_GET_SEALS)  # only a memfd has seals
    except OSError:
        raise SecretMemoryError(
            "the inherited descriptor is not secret memory"
        ) from None
    return "mlock"


def is_secret_memory(fd: int) -> bool:
    """Return whether a descriptor is of memfd_secret(2), by its name in /proc."""
    name = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115 - spares an import
    return name.startswith("/secretmem")


def _map(fd: int, size: int, kind: Kind) -> int:
    address: int | None = _libc.mmap(
        None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, 0
    )
    if address is None or address == _MAP_FAILED:
        raise _failure("mmap of secret memory", ctypes.get_errno())
    try:
        if kind == "mlock":
            if _libc.mlock(address, size) != 0:
                raise _failure("mlock of secret memory", ctypes.get_errno())
            if _libc.madvise(address, size, mmap.MADV_DONTDUMP) != 0:
                raise _failure("MADV_DONTDUMP", ctypes.get_errno())
        if _libc.madvise(address, size, mmap.MADV_DONTFORK) != 0:
            raise _failure("MADV_DONTFORK", ctypes.get_errno())
    except SecretMemoryError:
        _libc.munmap(address, size)
        raise
    return address


def _end(address: int, size: int, wipes: list[bool]) -> None:
    if wipes[0]:
        _libc.explicit_bzero(address, size)
    _libc.munmap(address, size)


def _failure(what: str, number: int) -> SecretMemoryError:
    reason = f"{what}: {errno.errorcode.get(number, number)}"
    if number in _LOCKED_LIMIT:
        return SecretMemoryError(reason, code="memory.locked_limit")
    return SecretMemoryError(
        reason, hint="See memfd_secret(2), mlock(2) and the limits of the unit."
    )
