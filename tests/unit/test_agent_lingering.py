from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Collection
from pathlib import Path

import pytest
from support.deadlines import DEADLINE_SECONDS

from skragent.agent import lingering
from skragent.agent.lingering import is_asked, linger


def listener(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return sock


def test_nobody_asks_where_nobody_has_connected(tmp_path: Path) -> None:
    with listener(tmp_path / "a") as a, listener(tmp_path / "b") as b:
        assert not is_asked([a, b])
    assert not is_asked([])


def test_one_who_has_gone_still_asks(tmp_path: Path) -> None:
    with listener(tmp_path / "a") as a, listener(tmp_path / "b") as b:
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(tmp_path / "b"))
            assert is_asked([a, b])
        assert is_asked([a, b])


def test_it_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering, "LINGER_SECONDS", 0.01)
    linger()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_does_nothing_else(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    wait = signal.sigtimedwait

    def wait_signalled(signals: Collection[int], seconds: float) -> object:
        # To this thread, in which it is blocked by now: any other one would die of it.
        signal.pthread_kill(threading.get_ident(), number)
        return wait(signals, seconds)

    monkeypatch.setattr("signal.sigtimedwait", wait_signalled)
    monkeypatch.setattr(lingering, "LINGER_SECONDS", DEADLINE_SECONDS)
    linger()
    assert number not in signal.sigpending()
