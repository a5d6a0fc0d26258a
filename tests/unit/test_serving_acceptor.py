"""Accepting: some at once, and pauses."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any

import pytest
from support.serving_in_memory import HandLoop

from skragent.serving.acceptor import Acceptor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Troubled(socket.socket):
    """A listening socket that fails before it accepts, as often as it is told to."""

    troubles: list[OSError]

    def accept(self) -> tuple[socket.socket, Any]:
        if self.troubles:
            raise self.troubles.pop()
        return super().accept()


class AcceptorHarness:
    """An acceptor, and the connections that it accepted."""

    def __init__(self, directory: Path) -> None:
        self.loop = HandLoop()
        self.sock = Troubled(socket.AF_UNIX)
        self.sock.troubles = []
        self.sock.bind(str(directory / "acceptor.sock"))
        self.taken: list[socket.socket] = []
        self.then: Callable[[], object] = lambda: None
        self.acceptor = Acceptor(self.sock, self._take)
        self.acceptor.start(self.loop)
        self._callers: list[socket.socket] = []

    @property
    def is_open(self) -> bool:
        return self.sock.fileno() in self.loop.readers

    def _take(self, connection: socket.socket) -> None:
        self.taken.append(connection)
        self.then()

    def call(self, count: int) -> None:
        """Make connections that wait in the backlog."""
        for _ in range(count):
            caller = socket.socket(socket.AF_UNIX)
            self._callers.append(caller)
            caller.connect(self.sock.getsockname())

    def report(self) -> None:
        """Report waiting connections, as a loop does once in each round."""
        self.loop.readers[self.sock.fileno()]()

    def release(self) -> None:
        for sock in (*self._callers, *self.taken, self.sock):
            sock.close()


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[AcceptorHarness]:
    harness = AcceptorHarness(tmp_path)
    yield harness
    harness.release()


def test_many_connections_are_accepted_in_batches(harness: AcceptorHarness) -> None:
    harness.call(70)
    harness.report()
    assert len(harness.taken) == 64
    harness.report()
    assert len(harness.taken) == 70


def test_no_connection_is_accepted_after_a_pause(harness: AcceptorHarness) -> None:
    harness.then = harness.acceptor.pause
    harness.call(2)
    harness.report()
    assert len(harness.taken) == 1
    harness.acceptor.resume()
    harness.report()
    assert len(harness.taken) == 2


def test_a_caller_that_closed_before_accept_delays_no_other_caller(
    harness: AcceptorHarness,
) -> None:
    harness.sock.troubles = [ConnectionAbortedError()]
    harness.call(1)
    harness.report()
    assert harness.is_open
    harness.report()
    assert len(harness.taken) == 1


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_without_descriptors_accepting_pauses(
    harness: AcceptorHarness, number: int
) -> None:
    harness.sock.troubles = [OSError(number, "none")]
    harness.call(1)
    harness.report()
    assert not harness.is_open
    (timer,) = harness.loop.timers
    timer.fire()
    harness.report()
    assert len(harness.taken) == 1
