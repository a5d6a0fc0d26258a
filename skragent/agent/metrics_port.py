"""The port that scrapers ask on. Without it the agent serves keys all the same.

It is a port that any user of the machine can take while the agent is down, so that one
who does must not keep the agent from starting.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from skragent.agent.sockets import bind_metrics
from skragent.errors import ListenError
from skragent.observe import Event, log

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from skragent.agent.clock import Clock
    from skragent.serving import MetricsServer

RETRY_SECONDS: Final = 30.0


class MetricsPort:
    """Listens as soon as the port can be had.

    Args:
        address: HOST:PORT.
        make: makes the server on a bound socket.
        clock: the one clock.
    """

    def __init__(
        self,
        address: str,
        make: Callable[[socket.socket], MetricsServer],
        clock: Clock,
    ) -> None:
        self._address = address
        self._make = make
        self._clock = clock
        self._server: MetricsServer | None = None
        self._closing = asyncio.Event()
        self._waiting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to accept, now or later."""
        error = await self._listen()
        if error is not None:
            log(
                Event.METRICS_REFUSED,
                f"{error.message}: nobody can scrape the agent; it tries again each"
                f" {RETRY_SECONDS:.0f} s. {error.hint}",
                code=error.code,
            )
            self._waiting = asyncio.create_task(self._listen_later())

    async def close(self) -> None:
        """Stop accepting."""
        self._closing.set()
        if self._waiting is not None:
            await self._waiting
        if self._server is not None:
            await self._server.close()

    async def _listen(self) -> ListenError | None:
        try:
            sock = bind_metrics(self._address)
        except ListenError as error:
            return error
        self._server = self._make(sock)
        await self._server.start()
        return None

    async def _listen_later(self) -> None:
        while not await self._clock.wait(self._closing, RETRY_SECONDS):
            if await self._listen() is None:
                log(Event.STARTED, f"listening on {self._address} for scrapers at last")
                return
