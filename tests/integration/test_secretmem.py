"""Secret memory against the real kernel."""

from __future__ import annotations

import errno
import gc
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from skragent import secretmem
from skragent.errors import SecretMemoryError
from skragent.secretmem import Arena, attach_arena, create_arena

KINDS = ("memfd_secret", "mlock")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Be on a kernel that has this kind, or only this kind."""
    if request.param == "mlock":
        without_memfd_secret(monkeypatch)
    else:
        probe = create_arena(1)
        probe.close_fd()
        if not probe.is_secret:
            pytest.skip("this kernel has no memfd_secret")
    return str(request.param)


@pytest.fixture
def arena(kind: str) -> Arena:
    """An arena of each kind, its descriptor still open."""
    made = create_arena(5000)
    assert made.kind == kind
    return made


def without_memfd_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be on an old kernel: a system call that does not exist says ENOSYS."""
    monkeypatch.setattr(secretmem, "_SYS_MEMFD_SECRET", 9999)


def mapping(arena: Arena) -> dict[str, str]:
    """Read what the kernel says of an arena's mapping; empty where there is none."""
    smaps = Path("/proc/self/smaps").read_text()
    blocks = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", smaps, flags=re.MULTILINE)
    for block in blocks:
        if block.startswith(f"{arena._address:x}-"):
            _, *lines = block.splitlines()
            return dict(re.split(r":\s*", line, maxsplit=1) for line in lines)
    return {}


def test_an_arena_is_whole_pages_of_zeros(arena: Arena) -> None:
    arena.close_fd()
    assert arena.size == 8192
    assert not any(arena.view(0, arena.size))


def test_an_arena_is_locked_and_not_dumped(arena: Arena) -> None:
    arena.close_fd()
    assert {"lo", "dd", "dc"} <= set(mapping(arena)["VmFlags"].split())


def test_no_descriptor_is_left_after_the_hand_over(arena: Arena) -> None:
    assert not os.get_inheritable(arena.fd)
    others = count_memory_descriptors() - 1
    arena.close_fd()
    attached = attach_arena_of_another(arena)
    assert attached.fd == arena.fd == -1
    assert count_memory_descriptors() == others


def count_memory_descriptors() -> int:
    """Count this process's descriptors of memory; other tests may have some open."""
    links = [
        str(p.readlink()) for p in Path("/proc/self/fd").iterdir() if p.is_symlink()
    ]
    return len([link for link in links if "secretmem" in link or "memfd:" in link])


def attach_arena_of_another(arena: Arena) -> Arena:
    """Attach a fresh arena of the same kind."""
    other = create_arena(arena.size)
    fd, other.fd = other.fd, -1
    return attach_arena(fd, other.size)


def test_both_ends_see_the_same_bytes(arena: Arena) -> None:
    attached = attach_arena(os.dup(arena.fd), arena.size)
    arena.close_fd()
    attached.view(100, 3)[:] = b"key"
    assert bytes(arena.view(100, 3)) == b"key"
    assert attached.kind == arena.kind


def test_wiping_zeroes_under_the_eyes_of_a_reader(arena: Arena) -> None:
    arena.close_fd()
    view = arena.view(100, 3)
    view[:] = b"key"
    arena.wipe()
    assert bytes(view) == b"\0\0\0"


@pytest.mark.usefixtures("kind")
def test_the_mapping_lives_until_its_last_view_is_gone() -> None:
    arena = create_arena(5000)
    view = arena.view(100, 3)
    view[:] = b"key"
    other = attach_arena(os.dup(arena.fd), arena.size)
    arena.close_fd()
    address = arena._address
    del arena
    assert bytes(view) == b"key"
    del view
    maps = Path("/proc/self/maps").read_text()
    assert f"{address:x}-" not in maps
    assert bytes(other.view(100, 3)) == b"\0\0\0"  # wiped before it was unmapped


def test_a_child_of_fork_does_not_see_it(arena: Arena) -> None:
    arena.close_fd()
    line = f"{arena._address:x}-"
    gc.collect()  # or the child would let go of other tests' arenas: not its own
    child = os.fork()
    if child == 0:
        seen = line in Path("/proc/self/maps").read_text()
        os._exit(1 if seen else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.root  # what forbade its own core dumps is root's in /proc
def test_the_kernel_does_not_read_secret_memory_for_any_process() -> None:
    arena = create_arena(4096)
    arena.close_fd()
    if not arena.is_secret:
        pytest.skip("this kernel has no memfd_secret")
    with Path("/proc/self/mem").open("rb", buffering=0) as memory:
        memory.seek(arena._address)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            memory.read(16)


def test_the_fallback_has_its_own_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    without_memfd_secret(monkeypatch)
    arena = create_arena(4096)
    arena.close_fd()
    assert (arena.is_secret, arena.kind) == (False, "mlock")


def test_no_process_can_shrink_it_under_a_mapping(arena: Arena) -> None:
    with pytest.raises(OSError, match=r"\[Errno (1|22)\]"):
        os.ftruncate(arena.fd, 4096)
    arena.close_fd()


def test_an_arena_of_another_size_is_refused(arena: Arena) -> None:
    fd = os.dup(arena.fd)
    arena.close_fd()
    with pytest.raises(SecretMemoryError) as caught:
        attach_arena(fd, arena.size + 4096)
    assert caught.value.code == "memory"
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(fd)


def test_a_closed_descriptor_is_not_an_arena() -> None:
    with pytest.raises(SecretMemoryError) as caught:
        attach_arena(1_000_000, 4096)
    assert caught.value.code == "memory"


def test_an_ordinary_file_is_not_an_arena(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(4096))
    with pytest.raises(SecretMemoryError) as caught:
        attach_arena(os.open(path, os.O_RDWR), 4096)
    assert caught.value.code == "memory"


def test_another_failure_of_the_kernel_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    close = 3  # close(2) of a descriptor that is not open: EBADF
    monkeypatch.setattr(secretmem, "_SYS_MEMFD_SECRET", close)
    with pytest.raises(SecretMemoryError) as caught:
        create_arena(4096)
    assert caught.value.code == "memory"


@pytest.mark.parametrize(("offset", "length"), [(8192, 1), (0, 8193), (-1, 1), (1, -1)])
def test_a_view_outside_of_the_arena_is_a_mistake(
    arena: Arena, offset: int, length: int
) -> None:
    arena.close_fd()
    with pytest.raises(ValueError, match="is outside of"):
        arena.view(offset, length)


@pytest.mark.parametrize("size", [0, -1, secretmem.MAX_ARENA_BYTES + 1])
def test_an_arena_of_a_size_that_makes_no_sense_is_a_mistake(size: int) -> None:
    with pytest.raises(ValueError, match="an arena has 1 to"):
        create_arena(size)


LIMITED = """
import os, resource, sys
from skragent import secretmem
resource.setrlimit(resource.RLIMIT_MEMLOCK, (8192, 8192))
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
if sys.argv[1] == "mlock":
    secretmem._SYS_MEMFD_SECRET = 9999
before = len(os.listdir("/proc/self/fd"))
try:
    secretmem.create_arena(65536)
except secretmem.SecretMemoryError as error:
    print(error.code, error.hint, len(os.listdir("/proc/self/fd")) - before)
"""


@pytest.mark.root
@pytest.mark.parametrize("kind", KINDS)
def test_too_little_lockable_memory_is_reported(kind: str) -> None:
    done = run_python(LIMITED, kind)
    assert done == (
        "memory.locked_limit Raise LimitMEMLOCK= of the unit, or hold fewer keys. 0\n"
    )


# A filter of four instructions (seccomp(2)): load the number of the system call; if it
# is 447, memfd_secret, fail with the errno that is asked for; else allow it.
FILTERED = """
import ctypes, struct, sys
from skragent import secretmem
libc = ctypes.CDLL(None, use_errno=True)
code = b"".join(struct.pack("=HBBI", *one) for one in (
    (0x20, 0, 0, 0),
    (0x15, 0, 1, secretmem._SYS_MEMFD_SECRET),
    (0x06, 0, 0, 0x00050000 | int(sys.argv[1])),
    (0x06, 0, 0, 0x7FFF0000),
))
buffer = ctypes.create_string_buffer(code)
program = ctypes.create_string_buffer(
    struct.pack("@HP", 4, ctypes.addressof(buffer))
)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, program, 0, 0) == 0  # PR_SET_SECCOMP, MODE_FILTER
print(secretmem.create_arena(1).kind, secretmem.explain_fallback(), sep="|")
"""


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS])
def test_a_seccomp_filter_is_distinguished_from_an_old_kernel(number: int) -> None:
    kind, _, why = run_python(FILTERED, str(number)).strip().partition("|")
    assert kind == "mlock"
    assert why == secretmem.explain_refusal(
        number, os.uname().release, is_filtered=True
    )
    if number == errno.EPERM:
        assert why.startswith("a seccomp filter forbids memfd_secret")


@pytest.mark.parametrize(
    ("number", "release", "is_filtered", "words"),
    [
        (errno.EPERM, "4.19.0", True, "a seccomp filter forbids"),
        (errno.ENOSYS, "5.13.19-6-pve", True, "boot 5.14 or newer"),
        (errno.ENOSYS, "6.1.0-30-amd64", True, "secretmem.enable=1"),
        (errno.ENOSYS, "6.12.48+deb13-amd64", True, "a seccomp filter forbids"),
        (errno.ENOSYS, "6.12.48+deb13-amd64", False, "CONFIG_SECRETMEM"),
        (errno.ENOSYS, "7", False, "CONFIG_SECRETMEM"),
        (errno.ENOSYS, "odd", False, "boot 5.14 or newer"),
    ],
)
def test_the_reason_for_missing_secret_memory_is_explained(
    number: int, release: str, *, is_filtered: bool, words: str
) -> None:
    why = secretmem.explain_refusal(number, release, is_filtered=is_filtered)
    assert words in why


UNDUMPABLE = """
import resource
from skragent.secretmem import forbid_core_dumps
forbid_core_dumps()
import ctypes
print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3))
"""


def test_core_dumps_are_forbidden() -> None:
    assert run_python(UNDUMPABLE) == "(0, 0) 0\n"


def run_python(code: str, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
