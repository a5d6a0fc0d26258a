"""The limit of open descriptors is raised as far as it is needed and allowed."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Collection
from pathlib import Path

import pytest
from support.deadlines import DEADLINE_SECONDS

from skragent.agent import signals_and_limits
from skragent.agent.signals_and_limits import (
    count_descriptors,
    delay_exit,
    has_connection,
)
from skragent.config import ServingConfig

CODE = """
import resource, sys
from skragent.agent.signals_and_limits import raise_descriptor_limit
soft, hard, wanted = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
print(raise_descriptor_limit(wanted), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "expected"),
    [
        (64, 500, 400, "400 400 500"),
        (64, 500, 500, "500 500 500"),
        (64, 500, 501, "500 500 500"),
        (300, 500, 200, "300 300 500"),
    ],
)
def test_the_limit_becomes_what_it_can(
    soft: int, hard: int, wanted: int, expected: str
) -> None:
    arguments = [str(soft), str(hard), str(wanted)]
    done = subprocess.run(
        [sys.executable, "-I", "-c", CODE, *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == expected.split()


def test_what_is_admitted_by_default_fits_into_the_units_limit() -> None:
    assert count_descriptors(ServingConfig()) <= 4096  # LimitNOFILE= of the unit


def test_both_sockets_that_admit_connections_as_configured_may_be_full() -> None:
    few, more = ServingConfig(connections=100), ServingConfig(connections=200)
    assert count_descriptors(more) - count_descriptors(few) == 2 * 100  # api and admin


def listener(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return sock


def test_a_listener_without_connections_has_no_connection(tmp_path: Path) -> None:
    with listener(tmp_path / "a") as a, listener(tmp_path / "b") as b:
        assert not has_connection([a, b])
    assert not has_connection([])


def test_a_connection_that_its_caller_closed_still_counts(tmp_path: Path) -> None:
    with listener(tmp_path / "a") as a, listener(tmp_path / "b") as b:
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(tmp_path / "b"))
            assert has_connection([a, b])
        assert has_connection([a, b])


def test_it_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals_and_limits, "EXIT_DELAY_SECONDS", 0.01)
    delay_exit()


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
    monkeypatch.setattr(signals_and_limits, "EXIT_DELAY_SECONDS", DEADLINE_SECONDS)
    delay_exit()
    assert number not in signal.sigpending()
