"""Start, kill and reap the process of a releaser.

The job is passed as a file in memory, so that the agent does not wait for a releaser
that does not read. The file does not contain secrets.

This module does not need an event loop: the agent starts its first releaser before it
imports asyncio, so that both load at the same time.
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
    """A running releaser. Call `reap` after it has ended."""

    process: subprocess.Popen[bytes]
    pidfd: int  # readable when the process has ended

    @property
    def pid(self) -> int:
        """The process's id, and its group's."""
        return self.process.pid

    def terminate(self) -> None:
        """Send SIGTERM to the process group. A write to the TPM delays the end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the process group, if a process of it still runs."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self.process.returncode is None:  # else the id may belong to another process
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def reap(self) -> int:
        """Return the exit status; kill what still runs, and close all descriptors."""
        self.kill()  # processes that the releaser started are in its group
        try:
            status = self.process.wait(_REAP_SECONDS)
        except (
            subprocess.TimeoutExpired
        ):  # it waits in the kernel, and cannot be killed
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
            # In the main thread, because PR_SET_PDEATHSIG ends the releaser with the
            # thread that started it: prctl(2).
            process = subprocess.Popen(  # noqa: S603 - our own command, no shell
                command,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(arena_fd,),
                env=dict(environment),
                cwd="/",
                start_new_session=True,  # its own process group: see `kill`
            )
        return _watch(process)
    except OSError as error:
        raise ReleaserError(
            f"the releaser cannot be started: {error}", code="releaser.spawn"
        ) from error


def _watch(process: subprocess.Popen[bytes]) -> Child:
    try:
        return Child(process, os.pidfd_open(process.pid))
    except OSError:  # too many open descriptors
        process.kill()
        process.communicate()
        raise


def describe_exit(status: int) -> str:
    """Describe how a process ended."""
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


# The unit's LoadCredential=tcglog:…, and the content from its SetCredential= if the
# machine has no log.
_TCG_LOG_CREDENTIAL: Final = "tcglog"
_NO_TCG_LOG: Final = b"none"


@dataclass(frozen=True, slots=True)
class Launch:
    """A releaser that was started, and its job."""

    child: Child
    arena: Arena
    aliases: frozenset[str]
    began_at: float  # boot time
    purpose: Purpose = "release"
    token: CachedToken | None = None


class Launcher:
    """Starts releasers for one configuration.

    Args:
        config: the configuration in force.
        clock: for the job's `now`.
        environment: of the agent; the releaser inherits a few variables.
        command: starts the releaser; tests pass a substitute.
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
        # StateDirectory= may list several (systemd.exec(5)); the first is the unit's.
        self._state_directory, _, _ = environment.get("STATE_DIRECTORY", "").partition(
            ":"
        )

    def configure(self, config: Config) -> None:
        """Start the next releasers with another configuration."""
        self._config = config

    def launch(
        self,
        keys: Sequence[KeyRequest],
        purpose: Purpose = "release",
        *,
        ak_query_id: str = "",
        token: CachedToken | None = None,
    ) -> Launch:
        """Start a releaser for these keys. A renewal has none.

        Raises:
            SecretMemoryError: there is not enough memory for the keys.
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
            # With an open descriptor, root could map the memory.
            arena.close_fd()
        aliases = frozenset(key.alias for key in keys)
        return Launch(child, arena, aliases, began_at, purpose, token)


def find_tcg_log(configured: str, directory: str) -> str:
    """Return the path of the TCG log: systemd's credential, if there is one.

    Only root can read the kernel's own file. Another configured path is not changed.

    Args:
        configured: the setting.
        directory: the agent's credentials from systemd; empty: there are none.
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
