"""Reload the configuration without a restart.

A file with a problem is rejected, and the previous configuration stays in force. The
file is read and names are resolved in a thread: getpwnam(3) may wait for a directory
service for minutes, and the agent must serve keys meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from skragent.config import parse_config
from skragent.errors import AgentError, ConfigError
from skragent.observe import Event, log
from skragent.serving import resolve_access

if TYPE_CHECKING:
    from collections.abc import Callable

    from skragent.agent.clock import Clock
    from skragent.agent.systemd_notify import Notifier
    from skragent.config import Config
    from skragent.observe import Counters
    from skragent.serving import Access

# To read the file and to resolve all names in it. systemd waits 90 s for the start and
# for a reload (TimeoutStartSec=).
LOOK_UP_SECONDS: Final = 30.0

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a reload: an error, or the settings that need a restart."""

    error: AgentError | None = None
    needs_restart: tuple[str, ...] = ()  # changed settings that are not in force yet


class Reloader:
    """Reloads the configuration when requested, one reload at a time.

    Args:
        read: returns the file's text; raises ConfigError.
        apply: applies a configuration; returns the settings that need a restart.
        clock: limits the time to resolve names.
        notifier: notifies systemd.
        counters: for the metrics.
    """

    def __init__(
        self,
        read: Callable[[], str],
        apply: Callable[[Config, Access], tuple[str, ...]],
        *,
        clock: Clock,
        notifier: Notifier,
        counters: Counters,
    ) -> None:
        self._read = read
        self._apply = apply
        self._clock = clock
        self._notifier = notifier
        self._counters = counters
        self._requested = asyncio.Event()
        self._listeners: list[Callable[[Outcome], None]] = []
        self._is_thread_running = False  # or hangs

    def request_reload(self, listener: Callable[[Outcome], None]) -> None:
        """Reload the file as it is now; `listener` receives the result."""
        self._listeners.append(listener)
        self._requested.set()

    async def run(self) -> None:
        """Reload when requested. Does not return."""
        while True:
            await self._requested.wait()
            self._requested.clear()
            listeners, self._listeners = self._listeners, []
            self._notifier.reloading()
            outcome = await self._reload()
            self._counters.is_reloaded = outcome.error is None
            self._notifier.reloaded()
            for listener in listeners:
                listener(outcome)

    async def _reload(self) -> Outcome:
        try:
            text = await self._call_in_thread(self._read)
            config = parse_config(text)
            access = await self._call_in_thread(
                lambda: resolve_access(
                    config.keys,
                    unit_rules_without_pidfd=config.agent.unit_rules_without_pidfd,
                )
            )
            needs_restart = self._apply(config, access)
        except ConfigError as error:
            log(
                Event.CONFIG_REFUSED,
                "the changed configuration was rejected, and the one before stays in"
                f" force: {error.message}. {error.hint}",
                code=error.code,
            )
            return Outcome(error)
        except Exception as error:  # noqa: BLE001 - the agent continues to serve keys after a bug
            log(Event.CONFIG_REFUSED, "a bug of ours; please report it", error=error)
            return Outcome(AgentError("something went wrong here"))
        log(Event.RELOADED, f"reloaded; {len(config.keys)} keys configured")
        if needs_restart:
            log(
                Event.NEEDS_RESTART,
                f"{', '.join(needs_restart)}: changed in the file, and in force after a"
                " restart of the agent",
            )
        return Outcome(needs_restart=needs_restart)

    async def _call_in_thread(self, work: Callable[[], _T]) -> _T:
        """Call a function in a thread, with a time limit. Only one thread runs.

        Raises:
            ConfigError: config.timeout, or the function's own error.
        """
        if self._is_thread_running:
            raise timeout_error("an earlier reload still waits for the file or a name")
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        future: asyncio.Future[_T] = loop.create_future()

        def finish(result: _T | None, error: BaseException | None) -> None:
            self._is_thread_running = False
            ended.set()
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type] # either one is set

        def run() -> None:
            result, caught = None, None
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001 - raised by the caller's await
                caught = error
            with contextlib.suppress(RuntimeError):  # the loop ended meanwhile
                loop.call_soon_threadsafe(finish, result, caught)

        self._is_thread_running = True
        threading.Thread(target=run, name="reload", daemon=True).start()
        if not await self._clock.wait(ended, LOOK_UP_SECONDS):
            future.cancel()
            raise timeout_error(
                f"the file or a name took longer than {LOOK_UP_SECONDS:g} s"
            )
        return future.result()


def call_with_timeout(
    work: Callable[[], _T], *, seconds: float = LOOK_UP_SECONDS
) -> _T:
    """Call a function that may wait for a directory service, without an event loop.

    Raises:
        ConfigError: config.timeout, or the function's own error.
    """
    outcomes: queue.SimpleQueue[tuple[_T | None, BaseException | None]]
    outcomes = queue.SimpleQueue()

    def run() -> None:
        try:
            outcomes.put((work(), None))
        except BaseException as error:  # noqa: BLE001 - raised below
            outcomes.put((None, error))

    threading.Thread(target=run, name="look-up", daemon=True).start()
    try:
        result, error = outcomes.get(timeout=seconds)
    except queue.Empty:
        raise timeout_error(f"a name took longer than {seconds:g} s") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value] # either one is set


def timeout_error(why: str) -> ConfigError:
    """Return the error for a look-up that took too long."""
    return ConfigError(
        [why],
        code="config.timeout",
        hint="Does the directory service answer? `getent passwd USER` asks it.",
    )
