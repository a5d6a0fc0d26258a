"""`python -I -m skragent.releaser`: one `Job` on stdin, one `Result` on stdout, exit.

The short-lived process of the two. It ends by `_exit`, without the interpreter's own
clearing up: what it leaves behind is the kernel's to clear, and that is the point.
"""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING

from skragent.releaser.hardening import harden

_SWITCH_SECONDS = 0.0005

# Before anything else is even imported.
harden()
# Nothing here lives long enough to be worth looking for; imports are 10 % faster.
gc.disable()
# One thread imports while others wait for the TPM and the network: they must not wait
# for the interpreter too, 5 ms each time.
sys.setswitchinterval(_SWITCH_SECONDS)

import logging  # noqa: E402 - as above
import os  # noqa: E402

import msgspec  # noqa: E402

from skragent.errors import AgentError  # noqa: E402
from skragent.job import Result  # noqa: E402
from skragent.release.environment import settle_environment  # noqa: E402
from skragent.releaser.ak_copies import AkCopies  # noqa: E402
from skragent.releaser.job_io import (  # noqa: E402
    EX_SOFTWARE,
    ResultWriter,
    read_job,
    report_crash,
    take_stdout,
)
from skragent.releaser.pipeline import run_release  # noqa: E402
from skragent.releaser.stopwatch import Stopwatch  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

    from skragent.job import Job


def _do(job: Job, stopwatch: Stopwatch, emit: Callable[[Result], None]) -> Result:
    # A check and a job that brings its token do not use the AK certificate.
    uses_certificate = job.purpose != "check" and not job.token
    if not uses_certificate or not AkCopies(job.state_directory).exist():
        return _do_purpose(job, stopwatch, emit)
    from skragent.releaser.ak_write import restore_ak_certificate  # noqa: PLC0415 - seldom
    from skragent.releaser.failures import describe_failure  # noqa: PLC0415 - the same

    try:
        is_restored = restore_ak_certificate(job)
    except AgentError as error:
        return Result(failure=describe_failure(error), timings=stopwatch.timings())
    result = _do_purpose(job, stopwatch, emit)
    return msgspec.structs.replace(result, ak_restored=is_restored)


def _do_purpose(
    job: Job, stopwatch: Stopwatch, emit: Callable[[Result], None]
) -> Result:
    if job.purpose == "release":
        return run_release(job, stopwatch, emit)
    # Seldom, and slow to import.
    if job.purpose == "renew":
        from skragent.releaser.ak_renewal import run_renewal  # noqa: PLC0415 - as above

        return run_renewal(job, stopwatch)
    from skragent.releaser.check import run_check  # noqa: PLC0415 - as above

    return run_check(job, stopwatch)


def main() -> int:
    """Do the job; gives the exit status."""
    stopwatch = Stopwatch()
    result_fd = take_stdout()
    # Every error is in the result; libraries need not tell it a second time.
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        job = read_job()
        settle_environment(os.environ, job.imds_endpoint)
        writer = ResultWriter(result_fd)
        writer.write(_do(job, stopwatch, writer.write))
    except Exception as error:  # noqa: BLE001 - the last stop: no result, a trace
        report_crash(error)
        return EX_SOFTWARE
    return os.EX_OK


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)
