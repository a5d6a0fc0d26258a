"""Run an emulator in a background thread, for synchronous callers.

For tests and for experiments in a Python prompt:

    with EmulatorThread(directory) as emulator:
        print(emulator.instance.config_text())
        emulator.call(emulator.instance.vm.reboot())
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from skragent.emulator.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

_T = TypeVar("_T")
_W = TypeVar("_W")
# Long enough for a slow machine; a call that hangs ends with an error.
_CALL_SECONDS = 180.0


class LoopThread(Generic[_W]):
    """A thread with an event loop that runs one asynchronous object."""

    def __init__(
        self,
        start: Callable[[], Coroutine[Any, Any, _W]],
        close: Callable[[_W], Coroutine[Any, Any, None]],
    ) -> None:
        self._start = start
        self._close = close
        # asyncio.Runner ends the loop's tasks, generators and threads before the loop.
        self._runner = asyncio.Runner()
        self._loop = self._runner.get_loop()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="emulator", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self.instance: _W = self.call(self._start())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.call(self._close(self.instance))
        finally:
            self._stop()

    def call(
        self, coroutine: Coroutine[Any, Any, _T], timeout: float = _CALL_SECONDS
    ) -> _T:
        """Run a coroutine in the thread's loop and return its result."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        return future.result(timeout)

    def _run(self) -> None:
        with self._runner:
            self._runner.run(self._wait_for_stop())

    async def _wait_for_stop(self) -> None:
        await self._stopped.wait()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()


class EmulatorThread(LoopThread[Emulator]):
    """A thread that runs an emulator; takes the arguments of `Emulator.start`."""

    def __init__(self, directory: Path, **options: Any) -> None:  # noqa: ANN401 - passed to Emulator.start
        super().__init__(
            lambda: Emulator.start(directory, **options), lambda e: e.close()
        )
