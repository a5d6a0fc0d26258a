"""The releaser as a process: its result, and the absence of secrets in its output."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from support.deadlines import DEADLINE_SECONDS, wait_until
from support.releaser import read_result, unreachable_job

from skragent.job import Job, arena_bytes
from skragent.secretmem import create_arena

COMMAND = (sys.executable, "-I", "-m", "skragent.releaser")


def run(job: bytes, *fds: int) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        COMMAND,
        input=job,
        capture_output=True,
        pass_fds=fds,
        check=False,
        timeout=DEADLINE_SECONDS,
        env={"HOME": "/", "PYTHONPATH": "/nowhere"},
    )


def make_job(arena_fd: int, arena_bytes: int) -> Job:
    """A job whose services do not listen."""
    job = unreachable_job("k")
    return msgspec.structs.replace(job, arena_fd=arena_fd, arena_bytes=arena_bytes)


@pytest.mark.parametrize("job", [b"", b"no job", b'{"protocol": 1}'])
def test_input_other_than_a_job_has_no_result(job: bytes) -> None:
    done = run(job)
    assert done.returncode == os.EX_SOFTWARE
    assert done.stdout == b""
    assert done.stderr.strip()


def test_crash_report_does_not_quote_the_job() -> None:
    done = run(b'{"protocol": "the-secret"}')
    assert b"the-secret" not in done.stderr


def test_vtpm_that_is_not_there_is_a_result() -> None:
    arena = create_arena(arena_bytes(1))
    job = make_job(arena.fd, arena.size)
    done = run(msgspec.json.encode(job), arena.fd)
    arena.close_fd()
    assert done.returncode == 0, done.stderr
    result = read_result(done.stdout)
    assert result.failure is not None
    assert result.failure.code == "evidence.tpm.unreachable"
    assert result.released == ()
    assert "total" in result.timings


def test_missing_arena_is_a_result() -> None:
    reader, writer = os.pipe()
    done = run(msgspec.json.encode(make_job(reader, arena_bytes(1))), reader)
    os.close(reader)
    os.close(writer)
    result = read_result(done.stdout)
    assert result.failure is not None
    assert result.failure.code.startswith("memory")


@pytest.mark.root
def test_releaser_dies_with_its_parent(tmp_path: Path) -> None:
    # Its job never comes and its stdin never ends: only the signal can end it.
    script = tmp_path / "parent.py"
    script.write_text(
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen({COMMAND!r}, stdin=0)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    reader, writer = os.pipe()
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stdin=reader
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        pidfd = os.pidfd_open(child)
        wait_until_it_reads_its_job(child)
        parent.kill()
    ready, _, _ = select.select([pidfd], [], [], DEADLINE_SECONDS)
    assert ready
    for fd in (reader, writer, pidfd):
        os.close(fd)


def wait_until_it_reads_its_job(pid: int) -> None:
    """Wait until it is in read(0, …): proc(5), /proc/PID/syscall."""
    call = Path(f"/proc/{pid}/syscall")
    wait_until(lambda: call.read_text().startswith("0 0x0 "))
