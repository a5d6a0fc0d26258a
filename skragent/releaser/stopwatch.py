"""Durations of a job's steps. The releaser's wall time is `Job.now`."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Stopwatch:
    """Milliseconds by step, and the longest where a step runs in several threads."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._lock = threading.Lock()
        self._timings: dict[str, float] = {}

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure the body of a `with` statement."""
        began = time.perf_counter()
        try:
            yield
        finally:
            taken = (time.perf_counter() - began) * 1e3
            with self._lock:
                self._timings[name] = max(taken, self._timings.get(name, 0.0))

    def timings(self) -> dict[str, float]:
        """Return the measurements so far, in milliseconds, and their `total`."""
        total = (time.perf_counter() - self._began) * 1e3
        with self._lock:
            return {
                name: round(taken, 3)
                for name, taken in {**self._timings, "total": total}.items()
            }
