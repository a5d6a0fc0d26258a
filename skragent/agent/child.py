"""The releaser's process: started, killed and reaped. No event loop here.

Started with `subprocess` and not by the loop, so that the first releaser can be under
way before the agent has even imported one. The job goes in as a file in memory, so
that a child which does not read cannot make us wait; it holds no secret.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

from skragent.errors import ReleaserError
from skragent.interpreter import module_command

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RELEASER_COMMAND: Final = module_command("skragent.releaser")

# A killed process is gone in milliseconds, unless it waits in the kernel. Shutdown,
# which has 2 seconds for everything, does not wait with it.
_REAP_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Child:
    """One running releaser; `reap` must be called once it has ended."""

    process: subprocess.Popen[bytes]
    pidfd: int  # readable when the process has ended

    @property
    def pid(self) -> int:
        """The process's id, and its group's."""
        return self.process.pid

    def terminate(self) -> None:
        """Have the whole process group end: at once, but for a write to the TPM."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the whole process group. Harmless when all of it has ended."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self.process.returncode is None:  # else the id may be another's by now
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def reap(self) -> int:
        """Collect the exit status, killing what still runs; close everything."""
        self.kill()  # what the child left behind is in its group
        try:
            status = self.process.wait(_REAP_SECONDS)
        except subprocess.TimeoutExpired:  # it waits in the kernel: nothing helps
            status = -signal.SIGKILL
        os.close(self.pidfd)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        return status


def spawn(
    command: Sequence[str],
    job: bytes,
    *,
    arena_fd: int,
    environment: Mapping[str, str],
) -> Child:
    """Start a releaser on a job.

    Raises:
        ReleaserError: releaser.spawn.
    """
    try:
        with _memory_file(job) as stdin:
            # From the main thread: the child dies with the thread that started it.
            process = subprocess.Popen(  # noqa: S603 - our own command, no shell
                command,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(arena_fd,),
                env=dict(environment),
                cwd="/",
                start_new_session=True,  # a group of its own, to kill it whole
            )
        return _hold(process)
    except OSError as error:
        raise ReleaserError(
            f"the releaser cannot be started: {error}", code="releaser.spawn"
        ) from error


def _hold(process: subprocess.Popen[bytes]) -> Child:
    try:
        return Child(process, os.pidfd_open(process.pid))
    except OSError:  # no descriptor is left for it
        process.kill()
        process.communicate()
        raise


def describe_exit(status: int) -> str:
    """Say how a process ended, in words."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def _memory_file(content: bytes) -> BinaryIO:
    file = open(os.memfd_create("skragent-job"), "w+b")  # noqa: SIM115, PTH123 - the caller closes it
    file.write(content)
    file.seek(0)
    return file
