"""Runs one job in a releaser child, and gives back only what has been judged.

Whatever the child does (hang, crash, flood, lie, leave others behind), `run` returns
within the job's time with a `Release` or raises our error; the child is reaped and its
process group is gone. Keys that the child released before that are delivered at once
and stay delivered. Never two jobs at once: they would share the vTPM and the vault's
limits.

Not here: retries, and what an outcome means for a key.
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

# The end of a traceback is the part that tells.
MAX_STDERR_BYTES: Final = 8 * 1024

# Nobody has this much to say: a child that does is in a circle, and costs us CPU.
MAX_STDERR_FLOOD_BYTES: Final = 4 * 1024 * 1024

_CHUNK_BYTES: Final = 64 * 1024

# A releaser obeys SIGTERM at once, unless it is writing the AK certificate. That takes
# a fraction of a second, and longer on a TPM that is busy.
TERMINATE_SECONDS: Final = 5.0

# A killed process ends at once, unless it waits in the kernel for the TPM.
_KILL_SECONDS: Final = 5.0

# Once the child has ended, its output is in the pipes. Only a stranger that fled its
# process group could hold them open still; we do not wait for it for long.
_OUTPUT_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Release:
    """A judged part of one job's outcome.

    The arena's memory lives as long as its views; after the job it is wiped.
    """

    result: Result
    arena: Arena
    began_at: float  # boot time
    token: CachedToken | None = None  # of its own attestation


class Runner:
    """Runs jobs, one at a time.

    Args:
        launcher: starts the children.
        clock: times them.
        timeout_seconds: how long a job may take.
        log_output: takes the child's stderr, redacted, line by line, and whether the
            job succeeded.
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
        """Return how long a job takes at most, its end included."""
        ending = TERMINATE_SECONDS + _KILL_SECONDS + 2 * _OUTPUT_SECONDS
        return self._timeout_seconds + ending

    def configure(self, timeout_seconds: float) -> None:
        """Give the jobs that come another time."""
        self._timeout_seconds = timeout_seconds

    async def check(self, keys: Sequence[KeyRequest]) -> Result:
        """Look for the latest versions of these keys.

        Raises:
            ReleaserError: the child did not do its work.
            SecretMemoryError: there is no memory for a child.
        """
        launch = self._launcher.launch(keys, "check")
        return (await self.run(keys, launched=launch)).result

    async def renew(self, query_id: str) -> Result:
        """Have the AK certificate renewed, or fetched by this id where there is one.

        Raises:
            ReleaserError: the child did not do its work.
            SecretMemoryError: there is no memory for a child.
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
        """Run a job for these keys, or see one through that is already under way.

        Args:
            keys: to be released.
            launched: the job, where it is under way.
            token: to release with; None: the job attests.
            deliver: takes each part of the outcome but the last, as it comes.

        Returns:
            the last part.

        Raises:
            ReleaserError: the child did not do its work.
            SecretMemoryError: there is no memory for the keys.
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
            result = await self._see_through(launch, take)
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
        """End the child that runs, if one does: `run` then returns or raises.

        A child that has not ended after TERMINATE_SECONDS is killed.
        """
        child = self._running
        if child is not None:
            child.terminate()
            loop = asyncio.get_running_loop()
            loop.call_later(TERMINATE_SECONDS, child.kill)

    async def _see_through(
        self, launch: Launch, take: Callable[[Result], None]
    ) -> Result:
        reader = ResultReader(
            launch.aliases,
            purpose=launch.purpose,
            has_token=launch.token is not None,
        )
        seen = _Watch(launch.child, _Parts(reader, take))
        try:
            result = await self._judge(launch, seen)
        except AgentError:
            self._log(seen, seen.status, succeeded=False)
            raise
        if any(key.failure.code == CODE_INTERNAL for key in result.failed):
            # A bug that ended one key instead of the releaser.
            self._log(seen, os.EX_SOFTWARE, succeeded=False)
        else:
            self._log(seen, seen.status, succeeded=True)
        return result

    async def _judge(self, launch: Launch, seen: _Watch) -> Result:
        timeout = self._timeout_seconds
        if launch.purpose != "release":  # no key hangs on it, but what is due waits
            timeout = min(timeout, SHORT_JOB_SECONDS)
        in_time = await seen.until_end(self._clock, timeout)
        if seen.parts.error is not None:
            raise seen.parts.error
        if seen.stderr.is_flooded:
            raise ReleaserError(
                "the releaser wrote more than it may", code="releaser.garbage"
            )
        if not in_time:
            raise ReleaserError(
                f"the releaser was killed after {timeout:g} s",
                code="releaser.timeout",
                hint="A job may take twelve times limits.request_timeout_seconds.",
            )
        if seen.status != 0:
            raise ReleaserError(
                f"the releaser {describe_exit(seen.status)}", code="releaser.crashed"
            )
        return seen.parts.finish()

    def _log(self, seen: _Watch, status: int, *, succeeded: bool) -> None:
        lines = log_lines(bytes(seen.stderr.kept))
        if not succeeded:
            lines = self._stderr_log.new_lines(lines, status)
        for line in lines:
            self._log_output(line, succeeded)


class _Parts:
    """The parts of a result as they come; the first error ends it."""

    def __init__(self, reader: ResultReader, take: Callable[[Result], None]) -> None:
        self.error: Exception | None = None
        self._reader = reader
        self._take = take

    def feed(self, data: bytes) -> bool:
        """Take output of the child; return whether more of it is wanted."""
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


class _Watch:
    """What is seen of one child: its output, bounded, and how it ended."""

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
        """Wait for the end, ending the child when its time is over; tell if it was."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        fd = self._child.pidfd

        def end() -> None:
            loop.remove_reader(fd)  # it stays readable
            ended.set()

        loop.add_reader(fd, end)
        try:
            in_time = await clock.wait(ended, seconds)
            if not in_time:
                self._child.terminate()
                await clock.wait(ended, TERMINATE_SECONDS)
            # Whatever the child left behind is in its group; while the child is not
            # reaped, the group's number is nobody else's.
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
    """One pipe of a child; the child is killed once `feed` wants no more of it."""

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
        """Read no more; output that has not been read by now is lost."""
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
    """A child's stderr: its last bytes, and a kill beyond a limit."""

    def __init__(self, fd: int, kill: Callable[[], None]) -> None:
        self.kept = bytearray()
        self._seen = 0
        super().__init__(fd, kill, self._keep)

    @property
    def is_flooded(self) -> bool:
        """Whether the child wrote more than it may."""
        return self._seen > MAX_STDERR_FLOOD_BYTES

    def _keep(self, data: bytes) -> bool:
        self._seen += len(data)
        self.kept += data
        del self.kept[:-MAX_STDERR_BYTES]
        return not self.is_flooded
