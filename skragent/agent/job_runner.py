"""Run a job in a releaser, and return its checked result.

A releaser may hang, crash, write without end, write a wrong result or leave processes
behind. In all cases `run` returns or raises an `AgentError` within the job's time
limit, and its process group has ended. Keys that the releaser released before are
delivered at once and stay delivered. Jobs do not overlap, because they would share the
vTPM and the vaults' rate limits.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from skragent.agent.cached_token import cache_token
from skragent.agent.jobs import SHORT_JOB_SECONDS
from skragent.agent.releaser_log import StderrLog, log_lines
from skragent.agent.releaser_output import ResultReader
from skragent.agent.releaser_process import describe_exit
from skragent.errors import AgentError, ReleaserError
from skragent.job import Result
from skragent.observe.names import CODE_INTERNAL

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from skragent.agent.cached_token import CachedToken
    from skragent.agent.clock import Clock
    from skragent.agent.releaser_process import Child, Launch, Launcher
    from skragent.job import KeyRequest
    from skragent.secretmem import Arena

# Enough for the end of a traceback.
MAX_STDERR_BYTES: Final = 8 * 1024

# A releaser that writes more is in an endless loop.
MAX_STDERR_FLOOD_BYTES: Final = 4 * 1024 * 1024

_CHUNK_BYTES: Final = 64 * 1024

# A releaser ends on SIGTERM at once, unless it is writing the AK certificate. That
# takes a fraction of a second, and longer if the TPM is busy.
TERMINATE_SECONDS: Final = 5.0

# A killed process ends at once, unless it waits in the kernel for the TPM.
_KILL_SECONDS: Final = 5.0

# After the releaser has ended, its output is in the pipes. Only a process that left the
# process group could keep the pipes open.
_OUTPUT_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Release:
    """A checked part of a job's result.

    The arena exists as long as views of it do.
    """

    result: Result
    arena: Arena
    began_at: float  # boot time
    token: CachedToken | None = None  # if the job attested


class Runner:
    """Runs jobs, one at a time.

    Args:
        launcher: starts the releasers.
        clock: the agent's clock.
        timeout_seconds: the time limit of a job.
        log_output: receives each line of the releaser's stderr, redacted, and whether
            the job succeeded.
    """

    def __init__(
        self,
        launcher: Launcher,
        clock: Clock,
        *,
        timeout_seconds: float,
        log_output: Callable[[str, bool], None],
    ) -> None:
        self._launcher = launcher
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._log_output = log_output
        self._stderr_log = StderrLog()
        self._running: Child | None = None

    @property
    def longest_seconds(self) -> float:
        """The longest time that a job takes, including the end of its releaser."""
        ending = TERMINATE_SECONDS + _KILL_SECONDS + 2 * _OUTPUT_SECONDS
        return self._timeout_seconds + ending

    def configure(self, timeout_seconds: float) -> None:
        """Change the time limit of later jobs."""
        self._timeout_seconds = timeout_seconds

    async def check(self, keys: Sequence[KeyRequest]) -> Result:
        """Ask for the latest versions of these keys.

        Raises:
            ReleaserError: the releaser failed.
            SecretMemoryError: there is not enough memory for a releaser.
        """
        launch = self._launcher.launch(keys, "check")
        return (await self.run(keys, launched=launch)).result

    async def renew(self, query_id: str) -> Result:
        """Order a new AK certificate, or fetch the one with this query id.

        Raises:
            ReleaserError: the releaser failed.
            SecretMemoryError: there is not enough memory for a releaser.
        """
        launch = self._launcher.launch((), "renew", ak_query_id=query_id)
        return (await self.run((), launched=launch)).result

    async def run(
        self,
        keys: Sequence[KeyRequest],
        *,
        launched: Launch | None = None,
        token: CachedToken | None = None,
        deliver: Callable[[Release], None] = lambda _part: None,
    ) -> Release:
        """Run a job for these keys.

        Args:
            keys: the keys.
            launched: the job, if its releaser has started already.
            token: to release with; None: the job attests.
            deliver: receives each part of the result but the last.

        Returns:
            the last part.

        Raises:
            ReleaserError: the releaser failed.
            SecretMemoryError: there is not enough memory for the keys.
        """
        if self._running is not None:
            raise RuntimeError("a releaser is running already")
        launch = launched or self._launcher.launch(keys, token=token)
        self._running = launch.child
        arena, began_at = launch.arena, launch.began_at
        attested = Result()

        def take(part: Result) -> None:
            nonlocal attested
            if part.attestation is not None:
                attested = part
            if not part.is_last:
                deliver(Release(part, arena, began_at))

        try:
            result = await self._watch(launch, take)
        except BaseException:
            arena.wipe()
            raise
        finally:
            self._running = None
        kept = cache_token(
            attested, arena, key_count=len(launch.aliases), began_at=began_at
        )
        return Release(result, arena, began_at, kept)

    def stop(self) -> None:
        """End the releaser, if one runs, so that `run` returns or raises.

        A releaser that has not ended after TERMINATE_SECONDS is killed.
        """
        child = self._running
        if child is not None:
            child.terminate()
            loop = asyncio.get_running_loop()
            loop.call_later(TERMINATE_SECONDS, child.kill)

    async def _watch(self, launch: Launch, take: Callable[[Result], None]) -> Result:
        reader = ResultReader(
            launch.aliases,
            purpose=launch.purpose,
            has_token=launch.token is not None,
        )
        watcher = _Watcher(launch.child, _Parts(reader, take))
        try:
            result = await self._finish(launch, watcher)
        except AgentError:
            self._log(watcher, watcher.status, succeeded=False)
            raise
        if any(key.failure.code == CODE_INTERNAL for key in result.failed):
            # A bug in skragent that the releaser survived.
            self._log(watcher, os.EX_SOFTWARE, succeeded=False)
        else:
            self._log(watcher, watcher.status, succeeded=True)
        return result

    async def _finish(self, launch: Launch, watcher: _Watcher) -> Result:
        timeout = self._timeout_seconds
        if launch.purpose != "release":  # keys that are due wait for the end
            timeout = min(timeout, SHORT_JOB_SECONDS)
        in_time = await watcher.until_end(self._clock, timeout)
        if watcher.parts.error is not None:
            raise watcher.parts.error
        if watcher.stderr.is_flooded:
            raise ReleaserError(
                "the releaser wrote more than it may", code="releaser.garbage"
            )
        if not in_time:
            raise ReleaserError(
                f"the releaser was killed after {timeout:g} s",
                code="releaser.timeout",
                hint="A job may take twelve times limits.request_timeout_seconds.",
            )
        if watcher.status != 0:
            raise ReleaserError(
                f"the releaser {describe_exit(watcher.status)}", code="releaser.crashed"
            )
        return watcher.parts.finish()

    def _log(self, watcher: _Watcher, status: int, *, succeeded: bool) -> None:
        lines = log_lines(bytes(watcher.stderr.kept))
        if not succeeded:
            lines = self._stderr_log.new_lines(lines, status)
        for line in lines:
            self._log_output(line, succeeded)


class _Parts:
    """The parts of a result. After an error the rest is ignored."""

    def __init__(self, reader: ResultReader, take: Callable[[Result], None]) -> None:
        self.error: Exception | None = None
        self._reader = reader
        self._take = take

    def feed(self, data: bytes) -> bool:
        """Read output of the releaser; return whether to read more."""
        if self.error is None:
            try:
                for part in self._reader.feed(data):
                    self._take(part)
            except Exception as error:  # noqa: BLE001 - raised where the job is awaited
                self.error = error
        return self.error is None

    def finish(self) -> Result:
        """Return the last part.

        Raises:
            ReleaserError: releaser.garbage
        """
        result = self._reader.finish()
        self._take(result)
        return result


class _Watcher:
    """Watches a releaser: reads its output and waits for its end."""

    def __init__(self, child: Child, parts: _Parts) -> None:
        out, err = child.process.stdout, child.process.stderr
        if out is None or err is None:
            raise TypeError("a child is spawned with pipes")
        self.parts = parts
        self.stdout = _Pipe(out.fileno(), child.kill, parts.feed)
        self.stderr = _Stderr(err.fileno(), child.kill)
        self.status = -1
        self._child = child

    async def until_end(self, clock: Clock, seconds: float) -> bool:
        """Wait for the end; return whether it came in time.

        After the time limit the releaser is terminated, and then killed.
        """
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        fd = self._child.pidfd

        def end() -> None:
            loop.remove_reader(fd)  # a pidfd stays readable
            ended.set()

        loop.add_reader(fd, end)
        try:
            in_time = await clock.wait(ended, seconds)
            if not in_time:
                self._child.terminate()
                await clock.wait(ended, TERMINATE_SECONDS)
            # Also kills processes that the releaser has started. The id of the group
            # cannot be used again before the releaser is reaped.
            self._child.kill()
            await clock.wait(ended, _KILL_SECONDS)
            for output in (self.stdout, self.stderr):
                await clock.wait(output.ended, _OUTPUT_SECONDS)
        finally:
            loop.remove_reader(fd)
            self.stdout.close()
            self.stderr.close()
            self.status = self._child.reap()
        return in_time


class _Pipe:
    """A pipe of a releaser, which is killed if `feed` returns false."""

    def __init__(
        self, fd: int, kill: Callable[[], None], feed: Callable[[bytes], bool]
    ) -> None:
        self.ended = asyncio.Event()
        self._fd = fd
        self._kill = kill
        self._feed = feed
        os.set_blocking(fd, False)
        asyncio.get_running_loop().add_reader(fd, self._read)

    def close(self) -> None:
        """Stop reading. The rest of the output is lost."""
        if not self.ended.is_set():
            asyncio.get_running_loop().remove_reader(self._fd)
            self.ended.set()

    def _read(self) -> None:
        try:
            chunk = os.read(self._fd, _CHUNK_BYTES)
        except BlockingIOError:
            return
        if not chunk:
            self.close()
        elif not self._feed(chunk):
            self._kill()


class _Stderr(_Pipe):
    """The stderr of a releaser: keeps the last bytes; limits the size."""

    def __init__(self, fd: int, kill: Callable[[], None]) -> None:
        self.kept = bytearray()
        self._seen = 0
        super().__init__(fd, kill, self._keep)

    @property
    def is_flooded(self) -> bool:
        """Whether the releaser wrote more than the limit."""
        return self._seen > MAX_STDERR_FLOOD_BYTES

    def _keep(self, data: bytes) -> bool:
        self._seen += len(data)
        self.kept += data
        del self.kept[:-MAX_STDERR_BYTES]
        return not self.is_flooded
