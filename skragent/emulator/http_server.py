"""The HTTP servers in front of the services: aiohttp, TLS, host names, request log.

A server listens at one address. If it has several services, the Host header selects
the service, and the TLS server name selects the certificate.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import socket
import struct
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from skragent.emulator import hostile_responses
from skragent.emulator.service import Request, Response, Service

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Mapping

    from skragent.emulator.clock import Clock
    from skragent.emulator.pki import ServerIdentity

_MAX_BODY_BYTES = 4 * 1024 * 1024  # event logs of some megabytes exist
_SHUTDOWN_SECONDS = 0.5

_HOSTILE: dict[str, Callable[..., Awaitable[None]]] = {
    "drip": hostile_responses.drip,
    "flood": hostile_responses.flood,
    "bomb": hostile_responses.bomb,
}


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """An answered request. Times are monotonic seconds of one clock."""

    service: str
    method: str
    target: str
    connection: int
    began: float  # the time when the body had arrived
    # The time before the response was sent; for a hostile response, the time when the
    # client had closed the connection.
    ended: float
    status: int


class RequestLog(list[RequestRecord]):
    """All requests to an emulator, in the order of their responses."""

    def __init__(self) -> None:
        super().__init__()
        self._last_connection = 0

    def next_connection(self) -> int:
        """Return the next connection number; all services share the numbering."""
        self._last_connection += 1
        return self._last_connection


class HttpServer:
    """A server at one address for one or more services."""

    def __init__(
        self,
        services: Mapping[str, Service],
        *,
        log: RequestLog,
        clock: Clock,
        identities: Mapping[str, ServerIdentity] | None = None,
    ) -> None:
        """Create a server.

        Args:
            services: by host name in lower case; the first also serves other hosts.
            log: records the requests.
            clock: for the log and for the Date header.
            identities: by host name; the first also serves clients without SNI. Without
                identities, the server speaks plain HTTP.
        """
        self._services = dict(services)
        self._identities = dict(identities or {})
        self._log = log
        self._clock = clock
        self._monotonic = clock.monotonic
        self._connections: weakref.WeakKeyDictionary[asyncio.BaseTransport, int] = (
            weakref.WeakKeyDictionary()
        )
        self._runner: web.ServerRunner | None = None

    async def listen(self, sock: socket.socket) -> None:
        """Serve a bound socket until `close` is called."""
        server = web.Server(self._handle, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=_SHUTDOWN_SECONDS)
        await self._runner.setup()
        site = web.SockSite(self._runner, sock, ssl_context=self._tls_context())
        await site.start()

    async def close(self) -> None:
        """Stop listening and close all connections."""
        if self._runner is None:
            return
        server = self._runner.server
        for connection in server.connections if server else []:
            if connection.transport is not None:
                # A TLS shutdown would wait for clients that do not answer it. Abort
                # before aiohttp closes: early 3.11 cannot abort a closed transport.
                connection.transport.abort()
        await self._runner.cleanup()
        self._runner = None
        await asyncio.sleep(0)  # lets the transports close their sockets

    def _tls_context(self) -> ssl.SSLContext | None:
        """Build a context that presents the certificate of the requested name."""
        if not self._identities:
            return None
        contexts = {h: i.tls_context for h, i in self._identities.items()}
        first = next(iter(contexts.values()))

        def choose(
            connection: ssl.SSLSocket | ssl.SSLObject,
            name: str | None,
            _: ssl.SSLContext,
        ) -> None:
            connection.context = contexts.get((name or "").lower(), first)

        if len(contexts) > 1:
            first.sni_callback = choose
        return first

    async def _handle(self, incoming: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._answer(incoming)
        except ConnectionError:  # the client closed the connection
            raise asyncio.CancelledError from None

    async def _answer(self, incoming: web.BaseRequest) -> web.StreamResponse:
        transport = incoming.transport
        if transport is None:
            raise asyncio.CancelledError
        if transport not in self._connections:
            self._connections[transport] = self._log.next_connection()
        connection = self._connections[transport]
        host = incoming.host.rpartition(":")[0] or incoming.host
        first = next(iter(self._services.values()))
        service = self._services.get(host.lower(), first)
        body = await _read(incoming)
        began = self._monotonic()
        if body is None:
            response = Response(413)
            request = Request(incoming.method, incoming.raw_path)
        else:
            request = _request_of(incoming, body)
            response = await service.serve(request)
        is_hostile = response.delivery in _HOSTILE
        if is_hostile and not transport.is_closing():
            with contextlib.suppress(ConnectionError):  # the client closed it
                await _HOSTILE[response.delivery](transport, response, response.measure)
        self._log.append(
            RequestRecord(
                service=service.name,
                method=request.method,
                target=request.target,
                connection=connection,
                began=began,
                ended=self._monotonic(),
                status=response.status,
            )
        )
        if is_hostile:
            transport.close()  # after the sent bytes have reached the client
            raise asyncio.CancelledError
        if response.delivery != "whole":
            return await _deliver_half(incoming, response)
        date = email.utils.format_datetime(self._clock.utc(), usegmt=True)
        return web.Response(
            status=response.status,
            body=response.body,
            headers={"Date": date, **response.headers},
        )


async def _read(incoming: web.BaseRequest) -> bytes | None:
    """Read a body up to the size limit; `None` if it is longer."""
    chunks = bytearray()
    with contextlib.suppress(web.HTTPRequestEntityTooLarge):
        async for chunk in incoming.content.iter_any():
            chunks += chunk
            if len(chunks) > _MAX_BODY_BYTES:
                return None
    return bytes(chunks)


async def _deliver_half(
    incoming: web.BaseRequest, response: Response
) -> web.StreamResponse:
    """Announce the whole body, send half of it, and end the connection."""
    length = max(len(response.body), 1)  # an empty body has no half
    headers = response.headers | {"Content-Length": str(length)}
    stream = web.StreamResponse(status=response.status, headers=headers)
    await stream.prepare(incoming)
    await stream.write(response.body[: length // 2])
    transport = incoming.transport
    if transport is None:
        return stream
    if response.delivery == "cut":
        transport.close()
    else:
        _reset(transport)
    return stream


def _reset(transport: asyncio.WriteTransport) -> None:
    """Close a connection with RST, as a crash or a firewall does."""
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is not None:
        # With SO_LINGER and a timeout of 0, close() sends RST (socket(7)).
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _request_of(incoming: web.BaseRequest, body: bytes) -> Request:
    headers = {name.lower(): value for name, value in incoming.headers.items()}
    return Request(incoming.method, incoming.raw_path, headers, body)
