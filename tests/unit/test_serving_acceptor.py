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


class Door:
    """An acceptor with everybody whom it took in."""

    def __init__(self, directory: Path) -> None:
        self.loop = HandLoop()
        self.sock = Troubled(socket.AF_UNIX)
        self.sock.troubles = []
        self.sock.bind(str(directory / "door"))
        self.taken: list[socket.socket] = []
        self.then: Callable[[], object] = lambda: None
        self.acceptor = Acceptor(self.sock, self._take_in)
        self.acceptor.start(self.loop)
        self._callers: list[socket.socket] = []

    @property
    def is_open(self) -> bool:
        return self.sock.fileno() in self.loop.readers

    def _take_in(self, connection: socket.socket) -> None:
        self.taken.append(connection)
        self.then()

    def call(self, count: int) -> None:
        """Let so many connect, whom nobody has accepted yet."""
        for _ in range(count):
            caller = socket.socket(socket.AF_UNIX)
            self._callers.append(caller)
            caller.connect(self.sock.getsockname())

    def look(self) -> None:
        """Tell that there is somebody, as a loop does once each time round."""
        self.loop.readers[self.sock.fileno()]()

    def release(self) -> None:
        for sock in (*self._callers, *self.taken, self.sock):
            sock.close()


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    door = Door(tmp_path)
    yield door
    door.release()


def test_a_crowd_is_taken_in_by_parts(door: Door) -> None:
    door.call(70)
    door.look()
    assert len(door.taken) == 64
    door.look()
    assert len(door.taken) == 70


def test_nobody_is_taken_in_after_the_one_who_was_enough(door: Door) -> None:
    door.then = door.acceptor.pause
    door.call(2)
    door.look()
    assert len(door.taken) == 1
    door.acceptor.resume()
    door.look()
    assert len(door.taken) == 2


def test_a_caller_who_went_before_it_was_accepted_delays_nobody(door: Door) -> None:
    door.sock.troubles = [ConnectionAbortedError()]
    door.call(1)
    door.look()
    assert door.is_open
    door.look()
    assert len(door.taken) == 1


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_without_descriptors_it_waits_instead_of_trying_on_and_on(
    door: Door, number: int
) -> None:
    door.sock.troubles = [OSError(number, "none")]
    door.call(1)
    door.look()
    assert not door.is_open
    (timer,) = door.loop.timers
    timer.fire()
    door.look()
    assert len(door.taken) == 1
