"""Clients that ask for keys all the time, and know what they must not see."""

from __future__ import annotations

import collections
import contextlib
import itertools
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

from skragent.client.exchange import (
    Request,
    SkragentError,
    exchange,
    key_target,
    media_type,
)

CLIENTS = 6
WAIT_SECONDS = 2
_PAUSE_SECONDS = 0.01


@dataclass(frozen=True)
class Limits:
    """How long an answer may take beyond the time that was said."""

    late_seconds: float = 4.0  # for a tick of the agent, and its other callers
    answer_seconds: float = 10.0  # after which a client gives up

    @classmethod
    def of(cls, seconds: float) -> Self:
        """Allow the same for everything."""
        return cls(seconds, seconds)


class Violation(Exception):  # noqa: N818 - not an error of the program's
    """Something was seen that must not be."""


class Clients:
    """Threads that ask, and what they make of the answers.

    What is expected of a key is one of three: that it is served as before (by default),
    that it may or may not be, or that it is not. An answer is judged only where nothing
    was expected differently while it was waited for.
    """

    def __init__(self, path: str, aliases: list[str], limits: Limits) -> None:
        self._limits = limits
        self.asked: collections.Counter[str] = collections.Counter()
        self._path = path
        self._aliases = aliases
        self._known: dict[tuple[str, str], bytes] = {}
        self._lock = threading.Lock()
        self._epoch = 0  # of expectations
        self._served: set[str] = set()  # by this agent, and so for good
        self._doubtful: set[str] = set()
        self._gone: set[str] = set()
        self._is_nobody_there = False
        self._violations: list[str] = []
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin to ask."""
        self._threads = [
            threading.Thread(target=self._ask_on, args=(i,)) for i in range(CLIENTS)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Ask no more."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def check(self) -> None:
        """Tell of what was seen and must not be.

        Raises:
            Violation: the first of it.
        """
        if self._violations:
            raise Violation(self._violations[0])

    def know(self, alias: str, version: str, der: bytes) -> None:
        """Learn what a version of a key is."""
        self._known[alias, version] = der

    # What is expected

    def expect_all(self) -> None:
        """Every key is served, from now on."""
        with self._expecting():
            self._served = set(self._aliases)
            self._doubtful.clear()
            self._gone.clear()

    def expect_gone_some_time(self, aliases: Iterable[str]) -> None:
        """These keys may or may not be served, from now on."""
        with self._expecting():
            self._doubtful.update(aliases)

    @contextlib.contextmanager
    def expecting_gone(self, aliases: Iterable[str]) -> Iterator[None]:
        """These keys are not served; afterwards they may be."""
        gone = set(aliases)
        with self._expecting():
            self._gone |= gone
        yield
        with self._expecting():
            self._gone -= gone

    @contextlib.contextmanager
    def nobody_there(self) -> Iterator[None]:
        """No agent need answer, and afterwards a new one serves what it has."""
        with self._expecting():
            self._is_nobody_there = True
        yield
        with self._expecting():
            self._is_nobody_there = False
            self._served = set(self._aliases)

    @contextlib.contextmanager
    def _expecting(self) -> Iterator[None]:
        with self._lock:
            self._epoch += 1
            yield

    # What is seen

    def is_served(self, alias: str) -> bool:
        """Tell whether a key is served now."""
        return bool(self.version_of(alias))

    def version_of(self, alias: str) -> str:
        """Give the version that is served now; empty where none is."""
        with contextlib.suppress(SkragentError):
            return self._fetch(alias, 0)
        return ""

    def _ask_on(self, number: int) -> None:
        for i in itertools.count(number):
            if self._stopping.is_set():
                return
            wait = WAIT_SECONDS if i % 5 == 0 else 0
            self._ask(self._aliases[i % len(self._aliases)], wait)
            time.sleep(_PAUSE_SECONDS)  # noqa: TID251 - other processes; nothing tells when

    def _ask(self, alias: str, wait: float) -> None:
        epoch, began = self._epoch, time.monotonic()
        try:
            self._fetch(alias, wait)
            code = ""
        except SkragentError as error:
            code = error.code
        took = time.monotonic() - began
        with self._lock:
            self.asked[f"answers: {code or 'the key'}"] += 1
            if epoch == self._epoch:
                self._judge(alias, code, late=took - wait)

    def _judge(self, alias: str, code: str, *, late: float) -> None:
        if self._is_nobody_there:
            return
        if late > self._limits.late_seconds:
            self._violations.append(f"{alias} was waited for {late:.1f} s too long")
        if not code and alias in self._gone:
            self._violations.append(f"{alias} is served, and must not be")
        is_expected = alias in self._served - self._doubtful - self._gone
        if code and is_expected:
            self._violations.append(f"{alias} was served, and is not: {code}")

    def _fetch(self, alias: str, wait: float) -> str:
        """Fetch a key and look at its bytes; gives the version."""
        request = Request(key_target(alias), media_type("der"), wait=wait)
        answer = exchange(self._path, request, self._limits.answer_seconds)
        version = answer.headers.get("etag", "").strip('"')
        known = self._known.get((alias, version))
        if answer.body != known:
            self._violations.append(f"{alias}: version {version} with other bytes")
        return version
