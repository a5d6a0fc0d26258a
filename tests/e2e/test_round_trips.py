"""What a cold start costs in round trips, told by making them the only cost."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from support.e2e import Agent, config_for, create_key

from skragent.emulator.thread import EmulatorThread

pytestmark = pytest.mark.swtpm

# So long that all work of all processes together is a fraction of one.
ROUND_TRIP_SECONDS = 2.0

# TCP, TLS, the evidence in two flights because it is longer than ten segments, and
# the release. The reference client needs eleven.
SEQUENTIAL = 5


def test_a_cold_start_costs_five_round_trips_in_sequence(directory: Path) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="skr-") as name,
        EmulatorThread(Path(name), latency_seconds=ROUND_TRIP_SECONDS) as emulator,
    ):
        create_key(emulator, "demo:RSA")
        with Agent(directory, config_for(emulator, directory, "demo")) as agent:
            agent.until(lambda: agent.holds("demo"))
            taken = agent.seconds()
    assert int(taken / ROUND_TRIP_SECONDS) <= SEQUENTIAL
