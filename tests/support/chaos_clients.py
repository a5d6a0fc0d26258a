"""Clients that request keys without a pause and report forbidden responses."""

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
    """The time limits of a response."""

    late_seconds: float = 4.0  # beyond the request's `wait`
    response_seconds: float = 10.0  # the client's timeout

    @classmethod
    def of(cls, seconds: float) -> Self:
        """Use the same time for both limits."""
        return cls(seconds, seconds)


class Violation(Exception):  # noqa: N818 - a finding
    """A response or a state that the rules forbid."""


class Clients:
    """Threads that request keys and check the responses.

    Each key has one of three expectations: it is served as before (the default), it may
    or may not be served, or it is not served. A response is checked only if no
    expectation changed during the request.
    """

    def __init__(self, path: str, aliases: list[str], limits: Limits) -> None:
        self._limits = limits
        self.responses: collections.Counter[str] = collections.Counter()
        self._path = path
        self._aliases = aliases
        self._known: dict[tuple[str, str], bytes] = {}
        self._lock = threading.Lock()
        self._epoch = 0  # counts the changes of expectations
        self._served: set[str] = set()  # keys that this agent must go on serving
        self._doubtful: set[str] = set()
        self._gone: set[str] = set()
        self._is_without_agent = False
        self._violations: list[str] = []
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the clients."""
        self._threads = [
            threading.Thread(target=self._run, args=(i,)) for i in range(CLIENTS)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop the clients."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def check(self) -> None:
        """Raise the first violation.

        Raises:
            Violation: a client got a forbidden response.
        """
        if self._violations:
            raise Violation(self._violations[0])

    def know(self, alias: str, version: str, der: bytes) -> None:
        """Store the bytes of a version of a key."""
        self._known[alias, version] = der

    # Expectations

    def expect_all(self) -> None:
        """Expect that every key is served from now on."""
        with self._expecting():
            self._served = set(self._aliases)
            self._doubtful.clear()
            self._gone.clear()

    def expect_nothing(self, aliases: Iterable[str]) -> None:
        """From now on accept both: these keys are served, or they are not served."""
        with self._expecting():
            self._doubtful.update(aliases)

    @contextlib.contextmanager
    def expecting_gone(self, aliases: Iterable[str]) -> Iterator[None]:
        """Expect in the block that these keys are not served; then accept both."""
        gone = set(aliases)
        with self._expecting():
            self._gone |= gone
        yield
        with self._expecting():
            self._gone -= gone

    @contextlib.contextmanager
    def without_agent(self) -> Iterator[None]:
        """Check no response in the block; then expect that an agent serves all keys."""
        with self._expecting():
            self._is_without_agent = True
        yield
        with self._expecting():
            self._is_without_agent = False
            self._served = set(self._aliases)

    @contextlib.contextmanager
    def _expecting(self) -> Iterator[None]:
        with self._lock:
            self._epoch += 1
            yield

    # Responses

    def is_served(self, alias: str) -> bool:
        """Return whether a key is served now."""
        return bool(self.version_of(alias))

    def version_of(self, alias: str) -> str:
        """Return the version that is served now, or an empty string."""
        with contextlib.suppress(SkragentError):
            return self._fetch(alias, 0)
        return ""

    def _run(self, number: int) -> None:
        for i in itertools.count(number):
            if self._stopping.is_set():
                return
            wait = WAIT_SECONDS if i % 5 == 0 else 0
            self._request(self._aliases[i % len(self._aliases)], wait)
            time.sleep(_PAUSE_SECONDS)  # noqa: TID251 - limits the rate of requests

    def _request(self, alias: str, wait: float) -> None:
        epoch, began = self._epoch, time.monotonic()
        try:
            self._fetch(alias, wait)
            code = ""
        except SkragentError as error:
            code = error.code
        took = time.monotonic() - began
        with self._lock:
            self.responses[f"responses: {code or 'the key'}"] += 1
            if epoch == self._epoch:
                self._judge(alias, code, late=took - wait)

    def _judge(self, alias: str, code: str, *, late: float) -> None:
        if self._is_without_agent:
            return
        if late > self._limits.late_seconds:
            self._violations.append(f"{alias}: the response is {late:.1f} s late")
        if not code and alias in self._gone:
            self._violations.append(f"{alias} is served, but must not be served")
        is_expected = alias in self._served - self._doubtful - self._gone
        if code and is_expected:
            self._violations.append(f"{alias} is not served any more: {code}")

    def _fetch(self, alias: str, wait: float) -> str:
        """Fetch a key, check its bytes and return its version."""
        request = Request(key_target(alias), media_type("der"), wait=wait)
        response = exchange(self._path, request, self._limits.response_seconds)
        version = response.headers.get("etag", "").strip('"')
        known = self._known.get((alias, version))
        if response.body != known:
            self._violations.append(f"{alias}: wrong bytes for version {version}")
        return version
