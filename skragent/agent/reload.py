"""Another configuration without a restart: read, judged, and only then in force.

A file with any problem is refused whole, and the one before stays in force. Whoever
orders a reload is told what came of it. The file is read and names are looked up in a
thread: a directory service that does not answer must not keep keys from anybody.

Not here: what another configuration changes (the daemon's `apply`).
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

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a reload: an error, or what the new file says of a later restart."""

    error: AgentError | None = None
    needs_restart: tuple[str, ...] = ()  # settings that changed, and do not hold yet


class Reloader:
    """Reloads when it is ordered to, one reload at a time.

    Args:
        read: gives the file's text; raises ConfigError.
        apply: puts a configuration in force; gives what waits for a restart.
        clock: bounds the looking up of names.
        notifier: tells systemd.
        counters: tells SREs.
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
        self._ordered = asyncio.Event()
        self._listeners: list[Callable[[Outcome], None]] = []
        self._is_aside = False  # a thread is at work, or hangs

    def order(self, listener: Callable[[Outcome], None]) -> None:
        """Have the file read as it is from now on; `listener` hears what came of it."""
        self._listeners.append(listener)
        self._ordered.set()

    async def run(self) -> None:
        """Obey, for ever."""
        while True:
            await self._ordered.wait()
            self._ordered.clear()
            listeners, self._listeners = self._listeners, []
            self._notifier.reloading()
            outcome = await self._reload()
            self._counters.is_reloaded = outcome.error is None
            self._notifier.reloaded()
            for listener in listeners:
                listener(outcome)

    async def _reload(self) -> Outcome:
        try:
            text = await self._aside(self._read)
            config = parse_config(text)
            access = await self._aside(
                lambda: resolve_access(
                    config.keys,
                    unit_rules_without_pidfd=config.agent.unit_rules_without_pidfd,
                )
            )
            needs_restart = self._apply(config, access)
        except ConfigError as error:
            log(
                Event.CONFIG_REFUSED,
                "the changed configuration was refused, and the one before stays in"
                f" force: {error.message}. {error.hint}",
                code=error.code,
            )
            return Outcome(error)
        except Exception as error:  # noqa: BLE001 - a bug of ours takes no key from anybody
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

    async def _aside(self, work: Callable[[], _T]) -> _T:
        """Do what may take long in a thread; not for ever, and never in two.

        Raises:
            ConfigError: config.timeout, or what the work raises.
        """
        if self._is_aside:
            raise look_up_timeout(
                "an earlier reload still waits for the file or a name"
            )
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        future: asyncio.Future[_T] = loop.create_future()

        def settle(result: _T | None, error: BaseException | None) -> None:
            self._is_aside = False
            ended.set()
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type] # one or the other

        def run() -> None:
            result, caught = None, None
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001 - it is raised where it is awaited
                caught = error
            with contextlib.suppress(RuntimeError):  # the loop ended meanwhile
                loop.call_soon_threadsafe(settle, result, caught)

        self._is_aside = True
        threading.Thread(target=run, name="reload", daemon=True).start()
        if not await self._clock.wait(ended, LOOK_UP_SECONDS):
            future.cancel()
            raise look_up_timeout(
                f"the file or a name took longer than {LOOK_UP_SECONDS:g} s"
            )
        return future.result()


# For the file, and for all names in it. systemd's reload waits 90 s, and so does its
# start.
LOOK_UP_SECONDS: Final = 30.0


def look_up_in_time(work: Callable[[], _T], *, seconds: float = LOOK_UP_SECONDS) -> _T:
    """Do what asks a directory service, before there is an event loop.

    Raises:
        ConfigError: config.timeout, or what the work raises.
    """
    outcomes: queue.SimpleQueue[tuple[_T | None, BaseException | None]]
    outcomes = queue.SimpleQueue()

    def run() -> None:
        try:
            outcomes.put((work(), None))
        except BaseException as error:  # noqa: BLE001 - it is raised below
            outcomes.put((None, error))

    threading.Thread(target=run, name="look-up", daemon=True).start()
    try:
        result, error = outcomes.get(timeout=seconds)
    except queue.Empty:
        raise look_up_timeout(f"a name took longer than {seconds:g} s") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value] # one or the other


def look_up_timeout(why: str) -> ConfigError:
    """Make the error of a look-up that did not end."""
    return ConfigError(
        [why],
        code="config.timeout",
        hint="Does the directory service answer? `getent passwd USER` asks it.",
    )
