"""The releaser's one way in and one way out: a bounded job, a bounded result.

And what is said of a crash. Not here: what happens in between (`walk`).
"""

from __future__ import annotations

import os
import sys
from typing import Final

import msgspec

from skragent.job import (
    MAX_JOB_BYTES,
    MAX_KEYS,
    MAX_RESULT_BYTES,
    PROTOCOL,
    Job,
    Result,
    arena_bytes,
)
from skragent.tracebacks import describe

EX_SOFTWARE: Final = 70  # sysexits.h: a bug of ours

_STDIN, _STDOUT, _STDERR = 0, 1, 2


def take_stdout() -> int:
    """Keep stdout for the result alone; what libraries print goes to stderr."""
    result_fd = os.dup(_STDOUT)
    os.dup2(_STDERR, _STDOUT)
    return result_fd


def read_job(fd: int = _STDIN) -> Job:
    """Read the job, bounded.

    Raises:
        ValueError: no job, or not one that this version understands.
    """
    data = bytearray()
    while chunk := os.read(fd, 64 * 1024):
        data += chunk
        if len(data) > MAX_JOB_BYTES:
            raise ValueError(f"a job of more than {MAX_JOB_BYTES} bytes")
    job = msgspec.json.decode(data, type=Job)
    if job.protocol != PROTOCOL:
        raise ValueError(f"a job of protocol {job.protocol}, not {PROTOCOL}")
    has_keys = job.purpose != "renew"
    if not has_keys <= len(job.keys) <= has_keys * MAX_KEYS:
        raise ValueError(f"a job of {len(job.keys)} keys")
    if job.arena_bytes < arena_bytes(len(job.keys)):
        raise ValueError("a job with too little secret memory")
    return job


class ResultWriter:
    """Writes the parts of a result, each on a line; the last one closes `fd`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._bytes = 0

    def write(self, part: Result) -> None:
        """Write one part.

        Raises:
            ValueError: the result is longer than the agent reads.
        """
        data = memoryview(msgspec.json.encode(part) + b"\n")
        self._bytes += len(data)
        if self._bytes > MAX_RESULT_BYTES:
            raise ValueError(f"a result of {self._bytes} bytes")
        while data:
            data = data[os.write(self._fd, data) :]
        if part.is_last:
            os.close(self._fd)


def report_crash(error: BaseException) -> None:
    """Say where it went wrong, on stderr, for the journal: in a few lines.

    Types and lines only. A message may quote what it is about, and what this process
    is about is secret.
    """
    sys.stderr.write(describe(error, with_messages=False))
    sys.stderr.flush()
