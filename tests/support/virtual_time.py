"""An event loop whose time advances only when the loop is idle.

The time is exact if all tasks run in this loop and all sockets are Unix sockets,
because the kernel delivers their data before the call returns.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Callable


class _Selector(selectors.DefaultSelector):
    def __init__(self, pass_time: Callable[[float], None]) -> None:
        super().__init__()
        self._pass_time = pass_time

    @override
    def select(
        self, timeout: float | None = None
    ) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if events or timeout == 0:
            return events
        if timeout is None:  # no timer is set
            return super().select(None)
        self._pass_time(timeout)
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop in which sleeping takes no time."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_Selector(self._pass_time))

    @override
    def time(self) -> float:
        return self._now

    def _pass_time(self, seconds: float) -> None:
        self._now += seconds
