"""`python -I -m skragent.releaser`: read one `Job`, write one `Result`, exit.

The process ends by `_exit`, without the interpreter's own cleanup: the kernel frees the
memory, and with it every copy of a key that a library has made.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import select
import signal
import sys
from typing import TYPE_CHECKING, Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_STDOUT: Final = 1
_SWITCH_SECONDS: Final = 0.0005


def _harden() -> None:
    """End with the agent, leave no core dump, and forbid tracing: prctl(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_PR_SET_PDEATHSIG, signal.SIGKILL), (_PR_SET_DUMPABLE, 0)):
        if libc.prctl(option, int(value), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), f"prctl({option})")
    # An agent that died before prctl(2) sends no signal. Nothing reads stdout then:
    # poll(2) reports POLLERR for every set of requested events.
    poll = select.poll()
    poll.register(_STDOUT, 0)
    if any(events & select.POLLERR for _, events in poll.poll(0)):
        os._exit(os.EX_NOINPUT)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The agent blocks signals during its start, and the first releaser inherits the
    # mask.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


# Before any other module is imported.
_harden()
# The process is too short-lived for garbage collection; imports are 10 % faster without
# it.
gc.disable()
# One thread imports modules while others wait for the TPM and the network. At the
# default interval each of them would wait 5 ms for the interpreter after each wait.
sys.setswitchinterval(_SWITCH_SECONDS)

import logging  # noqa: E402 - as above

import msgspec  # noqa: E402

from skragent.errors import AgentError  # noqa: E402
from skragent.job import Result  # noqa: E402
from skragent.releaser.ak_copies import AkCopies  # noqa: E402
from skragent.releaser.job_io import (  # noqa: E402
    EX_SOFTWARE,
    ResultWriter,
    clean_environment,
    describe_failure,
    read_job,
    report_crash,
    reserve_stdout,
)
from skragent.releaser.pipeline import run_release, run_version_check  # noqa: E402
from skragent.releaser.stopwatch import Stopwatch  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

    from skragent.job import Job


def _run(job: Job, stopwatch: Stopwatch, emit: Callable[[Result], None]) -> Result:
    """Do the job, after finishing an interrupted renewal of the AK certificate."""
    # A version check and a job that brings its token do not use the AK certificate.
    uses_certificate = job.purpose != "check" and not job.token
    if not uses_certificate or not AkCopies(job.state_directory).exist():
        return _run_purpose(job, stopwatch, emit)
    from skragent.releaser.ak_write import restore_ak_certificate  # noqa: PLC0415 - rare

    try:
        is_restored = restore_ak_certificate(job)
    except AgentError as error:
        return Result(failure=describe_failure(error), timings=stopwatch.timings())
    result = _run_purpose(job, stopwatch, emit)
    return msgspec.structs.replace(result, ak_restored=is_restored)


def _run_purpose(
    job: Job, stopwatch: Stopwatch, emit: Callable[[Result], None]
) -> Result:
    if job.purpose == "release":
        return run_release(job, stopwatch, emit)
    if job.purpose == "check":
        return run_version_check(job, stopwatch)
    # Rare, and slow to import.
    from skragent.releaser.ak_renewal import run_renewal  # noqa: PLC0415 - as above

    return run_renewal(job, stopwatch)


def main() -> int:
    """Do the job of stdin; return the exit status."""
    stopwatch = Stopwatch()
    result_fd = reserve_stdout()
    # Every error is in the result; libraries must not log it as well.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        job = read_job()
        clean_environment(os.environ, job.imds_endpoint)
        writer = ResultWriter(result_fd)
        writer.write(_run(job, stopwatch, writer.write))
    except Exception as error:  # noqa: BLE001 - a bug: no result, and a report
        report_crash(error)
        return EX_SOFTWARE
    return os.EX_OK


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)
