"""All that listens, sockets and the metrics port: begun and ended together."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

from skragent.agent.socket_activation import bind_metrics
from skragent.errors import ListenError
from skragent.observe import Event, log
from skragent.serving import (
    AdminServer,
    ApiServer,
    CredentialServer,
    Limits,
    MetricsServer,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from skragent.agent.clock import Clock
    from skragent.agent.control import Control
    from skragent.agent.daemon import World
    from skragent.config import Config
    from skragent.keyring import Keyring
    from skragent.observe import Counters
    from skragent.serving import Access


class Server(Protocol):
    """Something that listens."""

    async def start(self) -> None:
        """Begin to accept."""
        ...

    async def close(self) -> None:
        """Stop accepting, and end within a second or two."""
        ...


class Servers:
    """The agent's servers, on the sockets that it was given.

    Args:
        world: with the sockets, and the configuration that they begin with.
        keyring: what is served.
        counters: what is counted of it.
        control: what administrators order.
    """

    def __init__(
        self, world: World, keyring: Keyring, counters: Counters, control: Control
    ) -> None:
        config = world.config
        limits = Limits.for_connections(config.serving.connections)
        self._api = ApiServer(
            world.sockets.api,
            keyring,
            world.access,
            counters,
            now=world.clock.now,
            limits=limits,
        )
        self._credentials: CredentialServer | None = None
        if world.sockets.credentials is not None:
            self._credentials = CredentialServer(
                world.sockets.credentials,
                keyring,
                world.access,
                counters,
                wait_seconds=config.serving.credential_wait_seconds,
                store=world.notifier,
                restored=world.stored_credentials,
            )
        self._admin: AdminServer | None = None
        if world.sockets.admin is not None:
            self._admin = AdminServer(
                world.sockets.admin, keyring, counters, control, limits=limits
            )
        self._metrics: MetricsPort | None = None
        if config.agent.metrics_listen:
            self._metrics = MetricsPort(
                config.agent.metrics_listen,
                lambda sock: MetricsServer(sock, keyring, counters, limits=limits),
                world.clock,
            )

    def __iter__(self) -> Iterator[Server]:
        """All that there are, in the order in which they begin."""
        every = (self._api, self._credentials, self._admin, self._metrics)
        return (server for server in every if server is not None)

    async def start(self) -> None:
        """Begin to accept, one after the other."""
        for server in self:
            await server.start()

    async def close(self) -> None:
        """Stop accepting, all at once."""
        await asyncio.gather(*(server.close() for server in self))

    def configure(self, config: Config, access: Access) -> None:
        """Serve by another configuration, connections that are open included."""
        limits = Limits.for_connections(config.serving.connections)
        self._api.change_access(access)
        self._api.change_limits(limits)
        if self._credentials is not None:
            self._credentials.change_access(access)
            self._credentials.wait_seconds = config.serving.credential_wait_seconds
        if self._admin is not None:
            self._admin.change_limits(limits)


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
