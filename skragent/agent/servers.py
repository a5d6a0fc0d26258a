"""The agent's servers: started, configured and closed together.

Any user of the machine can bind the metrics port while the agent is down. So a port
that is in use does not keep the agent from starting: the agent tries to bind it again.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final, Protocol

import tenacity

from skragent.agent.listeners import bind_metrics
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

    from skragent.agent.admin_control import Control
    from skragent.agent.clock import Clock
    from skragent.agent.daemon import DaemonInputs
    from skragent.config import Config
    from skragent.keyring import Keyring
    from skragent.observe import Counters
    from skragent.serving import Access


RETRY_SECONDS: Final = 30.0


class Server(Protocol):
    """A server of the agent."""

    async def start(self) -> None:
        """Accept connections."""
        ...

    async def close(self) -> None:
        """Stop accepting connections; end within two seconds."""
        ...


class Servers:
    """The agent's servers.

    Args:
        inputs: the sockets and the first configuration.
        keyring: the held keys.
        counters: for the metrics.
        control: requests of administrators.
    """

    def __init__(
        self,
        inputs: DaemonInputs,
        keyring: Keyring,
        counters: Counters,
        control: Control,
    ) -> None:
        config = inputs.config
        limits = Limits.for_connections(config.serving.connections)
        self._api = ApiServer(
            inputs.sockets.api,
            keyring,
            inputs.access,
            counters,
            now=inputs.clock.now,
            due_at=control.due_at,
            limits=limits,
        )
        self._credentials: CredentialServer | None = None
        if inputs.sockets.credentials is not None:
            self._credentials = CredentialServer(
                inputs.sockets.credentials,
                keyring,
                inputs.access,
                counters,
                wait_seconds=config.serving.credential_wait_seconds,
                store=inputs.notifier,
                restored=inputs.stored_credentials,
            )
        self._admin: AdminServer | None = None
        if inputs.sockets.admin is not None:
            self._admin = AdminServer(
                inputs.sockets.admin, keyring, counters, control, limits=limits
            )
        self._metrics: MetricsPort | None = None
        if config.agent.metrics_listen:
            self._metrics = MetricsPort(
                config.agent.metrics_listen,
                lambda sock: MetricsServer(sock, keyring, counters, limits=limits),
                inputs.clock,
            )

    def __iter__(self) -> Iterator[Server]:
        """Return the servers in the order in which they start."""
        every = (self._api, self._credentials, self._admin, self._metrics)
        return (server for server in every if server is not None)

    async def start(self) -> None:
        """Start all servers, one after the other."""
        for server in self:
            await server.start()

    async def close(self) -> None:
        """Close all servers at the same time."""
        await asyncio.gather(*(server.close() for server in self))

    def configure(self, config: Config, access: Access) -> None:
        """Apply another configuration, to open connections, too."""
        limits = Limits.for_connections(config.serving.connections)
        self._api.change_access(access)
        self._api.change_limits(limits)
        if self._credentials is not None:
            self._credentials.change_access(access)
            self._credentials.wait_seconds = config.serving.credential_wait_seconds
        if self._admin is not None:
            self._admin.change_limits(limits)


class MetricsPort:
    """Listens on the metrics port as soon as it can be bound.

    Args:
        address: HOST:PORT.
        make: builds the server on a bound socket.
        clock: the agent's clock.
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
        self._retrying: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Accept connections, now or after the port can be bound."""
        try:
            await self._listen()
        except ListenError as error:
            log(
                Event.METRICS_REFUSED,
                f"{error.message}: the metrics are not available; the agent tries again"
                f" every {RETRY_SECONDS:.0f} s. {error.hint}",
                code=error.code,
            )
            self._retrying = asyncio.create_task(self._retry())

    async def close(self) -> None:
        """Stop accepting connections."""
        self._closing.set()
        if self._retrying is not None:
            await self._retrying
        if self._server is not None:
            await self._server.close()

    async def _listen(self) -> None:
        self._server = self._make(bind_metrics(self._address))
        await self._server.start()

    async def _retry(self) -> None:
        retrying = tenacity.AsyncRetrying(
            wait=tenacity.wait_fixed(RETRY_SECONDS),
            sleep=self._pause,
            stop=lambda _: self._closing.is_set(),
            retry=tenacity.retry_if_exception_type(ListenError),
            reraise=True,
        )
        await self._pause(RETRY_SECONDS)
        if self._closing.is_set():
            return
        with contextlib.suppress(ListenError):  # the agent is stopping
            await retrying(self._listen)
            log(Event.STARTED, f"listening on {self._address} for scrapers at last")

    async def _pause(self, seconds: float) -> None:
        await self._clock.wait(self._closing, seconds)
