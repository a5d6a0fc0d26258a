"""Puts a job together and starts a releaser on it: secret memory, job, process.

No event loop here: the agent launches its first releaser before it loads one, and
the two get ready side by side.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

import msgspec

from skragent.agent.jobs import build_job, releaser_environment
from skragent.config import VtpmConfig
from skragent.errors import ReleaserError
from skragent.files import open_regular
from skragent.interpreter import module_command
from skragent.job import UNIQUE_BYTES, arena_bytes, unique_offset
from skragent.secretmem import create_arena

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from skragent.agent.cached_token import CachedToken
    from skragent.agent.clock import Clock
    from skragent.config import Config
    from skragent.job import KeyRequest, Purpose
    from skragent.secretmem import Arena

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


# The unit's LoadCredential=tcglog:…, and what its SetCredential= puts in the place of
# a log that the machine does not have.
_TCG_LOG_CREDENTIAL: Final = "tcglog"
_NO_TCG_LOG: Final = b"none"


@dataclass(frozen=True, slots=True)
class Launch:
    """A releaser under way, and what it was given."""

    child: Child
    arena: Arena
    aliases: frozenset[str]
    began_at: float  # boot time
    purpose: Purpose = "release"
    token: CachedToken | None = None  # that it was given


class Launcher:
    """Starts releasers for one configuration.

    Args:
        config: the world as the administrator describes it.
        clock: for the job's `now`.
        environment: ours, of which the releaser gets next to nothing.
        command: the releaser; tests give a substitute.
    """

    def __init__(
        self,
        config: Config,
        clock: Clock,
        environment: Mapping[str, str],
        command: Sequence[str] = RELEASER_COMMAND,
    ) -> None:
        self._config = config
        self._clock = clock
        self._command = tuple(command)
        self._environment = releaser_environment(environment)
        self._credentials = environment.get("CREDENTIALS_DIRECTORY", "")
        # StateDirectory= may name several: systemd.exec(5). The unit's own is first.
        self._state_directory, _, _ = environment.get("STATE_DIRECTORY", "").partition(
            ":"
        )

    def configure(self, config: Config) -> None:
        """Have the next releasers work by another configuration."""
        self._config = config

    def launch(
        self,
        keys: Sequence[KeyRequest],
        purpose: Purpose = "release",
        *,
        ak_query_id: str = "",
        token: CachedToken | None = None,
    ) -> Launch:
        """Start a releaser for these keys; for a renewal there are none.

        Raises:
            SecretMemoryError: there is no memory for the keys.
            ReleaserError: releaser.spawn.
        """
        began_at = self._clock.boottime()
        arena = create_arena(arena_bytes(len(keys)))
        if token is not None:
            arena.view(unique_offset(len(keys)), UNIQUE_BYTES)[:] = token.unique
        try:
            job = build_job(
                self._config,
                keys,
                now=self._clock.now(),
                arena_fd=arena.fd,
                arena_bytes=arena.size,
                tcg_log=find_tcg_log(self._config.vtpm.tcg_log, self._credentials),
                purpose=purpose,
                ak_query_id=ak_query_id,
                token=token.raw if token is not None else "",
                state_directory=self._state_directory,
            )
            child = spawn(
                self._command,
                msgspec.json.encode(job),
                arena_fd=arena.fd,
                environment=self._environment,
            )
        finally:
            # Through an open descriptor root could map the memory.
            arena.close_fd()
        aliases = frozenset(key.alias for key in keys)
        return Launch(child, arena, aliases, began_at, purpose, token)


def find_tcg_log(configured: str, directory: str) -> str:
    """Choose where the TCG log is read: systemd's credential, if there is one.

    The kernel's own file is root's; a path that was configured is taken as it is.

    Args:
        configured: the setting.
        directory: where systemd put our credentials; empty: it did not.
    """
    if not directory or configured != VtpmConfig().tcg_log:
        return configured
    credential = f"{directory}/{_TCG_LOG_CREDENTIAL}"
    try:
        with open_regular(credential) as file:
            is_there = file.read(len(_NO_TCG_LOG) + 1).strip() != _NO_TCG_LOG
    except OSError:
        return configured
    return credential if is_there else ""
