"""A port for scrapers that another has taken, and gives back."""

from __future__ import annotations

import socket

import pytest
from support.agent import FakeClock, run, settle

from skragent.agent.servers import RETRY_SECONDS, MetricsPort
from skragent.keyring import Keyring
from skragent.observe import Counters
from skragent.serving import MetricsServer


def port_on(address: str, clock: FakeClock) -> MetricsPort:
    def make(sock: socket.socket) -> MetricsServer:
        return MetricsServer(sock, Keyring(), Counters())

    return MetricsPort(address, make, clock)


def is_listening(address: tuple[str, int]) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(address) == 0


def test_a_port_in_use_is_reported_and_bound_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test() -> None:
        clock = FakeClock()
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            address = other.getsockname()
            port = port_on(f"127.0.0.1:{address[1]}", clock)
            await port.start()
            await settle()
            await clock.advance(RETRY_SECONDS)
            await settle()
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert f"127.0.0.1:{address[1]}" in caplog.text
        assert not is_listening(address)
        await clock.advance(RETRY_SECONDS)
        await settle()
        assert is_listening(address)
        await port.close()
        assert not is_listening(address)

    run(test())


def test_a_server_that_waits_for_its_port_closes_at_once() -> None:
    async def test() -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = port_on(f"127.0.0.1:{other.getsockname()[1]}", FakeClock())
            await port.start()
            await port.close()

    run(test())
