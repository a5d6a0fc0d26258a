"""What `--latency` makes of a connection, in round trips, on a clock of its own."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.azure import bind_unix
from support.virtual_time import VirtualTimeLoop

from skragent.emulator.delay_relay import DelayRelay

if TYPE_CHECKING:
    from collections.abc import Sequence

ROUND_TRIP_SECONDS = 10.0
IN_FLIGHT = 14480  # ten segments of 1448 bytes (RFC 6928)


async def trips_of(
    directory: Path, exchanges: Sequence[tuple[int, int]]
) -> list[float]:
    """Send requests of so many bytes on one connection, for answers of so many.

    Gives the round trips that each took; the first one connects.
    """
    sizes = iter(exchanges)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for request, answer in sizes:
            assert await reader.readexactly(request) == b"q" * request
            writer.write(b"a" * answer)
        writer.close()

    service = await asyncio.start_unix_server(serve, directory / "service")
    connect = partial(asyncio.open_unix_connection, directory / "service")
    relay = DelayRelay(connect, ROUND_TRIP_SECONDS)
    await relay.listen(bind_unix(directory / "relay"))
    loop = asyncio.get_running_loop()
    took = []
    began = loop.time()
    reader, writer = await asyncio.open_unix_connection(directory / "relay")
    for request, answer in exchanges:
        writer.write(b"q" * request)
        assert await reader.readexactly(answer) == b"a" * answer
        took.append((loop.time() - began) / ROUND_TRIP_SECONDS)
        began = loop.time()
    writer.close()
    await writer.wait_closed()
    await relay.close()
    service.close()
    await service.wait_closed()
    return took


@pytest.mark.parametrize(
    ("exchanges", "trips"),
    [
        pytest.param([(100, 100), (100, 100)], [2, 1], id="connecting costs one"),
        pytest.param([(IN_FLIGHT, IN_FLIGHT)], [2], id="ten segments go at once"),
        pytest.param(
            [(IN_FLIGHT + 1, 1)], [3], id="later segments wait for an acknowledgement"
        ),
        pytest.param([(1, IN_FLIGHT + 1)], [3], id="responses wait as well"),
        pytest.param(
            [(IN_FLIGHT, 1), (2 * IN_FLIGHT, 1)],
            [2, 1],
            id="acknowledged bytes free the window",
        ),
        pytest.param(
            [(7 * IN_FLIGHT, 1)], [4], id="the window grows by acknowledged bytes"
        ),
        pytest.param([(7 * IN_FLIGHT + 1, 1)], [5], id="and not by more"),
    ],
)
def test_a_connection_costs_the_round_trips_of_a_distant_one(
    tmp_path: Path, exchanges: list[tuple[int, int]], trips: list[float]
) -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        took = runner.run(trips_of(tmp_path, exchanges))
    assert took == pytest.approx(trips)
