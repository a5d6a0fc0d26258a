"""Looking up names of users and groups, bounded in time.

getpwnam(3) asks a directory service, which may not answer for minutes.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Final, TypeVar

from skragent.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

# For the file, and for all names in it. systemd's reload waits 90 s, and so does its
# start.
LOOK_UP_SECONDS: Final = 30.0

_T = TypeVar("_T")


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
