"""The agent's HTTP servers on Unix sockets and on TCP, for other clients."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import TYPE_CHECKING, NamedTuple

import uvloop
from support.deadlines import DEADLINE_SECONDS
from support.serving import NOW, everybody_in, no_attempt

from skragent.observe import Counters
from skragent.serving import AdminServer, ApiServer, Limits, MetricsServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from skragent.keyring import Keyring
    from skragent.serving.admin import ReloadOutcome


class Orders:
    """Records the operations of administrators."""

    def __init__(self) -> None:
        self.refreshed: list[tuple[str, ...]] = []

    def refresh(self, aliases: Sequence[str]) -> None:
        self.refreshed.append(tuple(aliases))

    def reload(self, listener: Callable[[ReloadOutcome], None]) -> None:
        raise NotImplementedError

    def drop(self, alias: str) -> None:
        raise NotImplementedError

    def describe(self) -> Mapping[str, object]:
        return {}

    def describe_key(self, alias: str) -> Mapping[str, object]:  # noqa: ARG002
        return {}


class Services(NamedTuple):
    """The Unix sockets, and the TCP ports of relays in front of them."""

    api: Path
    admin: Path
    api_port: int
    admin_port: int
    metrics_port: int
    orders: Orders


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()


async def _relay_to(path: Path) -> tuple[asyncio.Server, int]:
    """Relay the bytes of a TCP connection unchanged."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to_there = await asyncio.open_unix_connection(str(path))
        await asyncio.gather(_copy(reader, to_there), _copy(there, writer))
        to_there.close()
        writer.close()

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


def _bound(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    path.chmod(0o666)
    return sock


@contextlib.contextmanager
def http_services(directory: Path, ring: Keyring) -> Iterator[Services]:
    """Serve a keyring from a thread."""
    api_path, admin_path = directory / "api.sock", directory / "admin.sock"
    started: list[tuple[Services, asyncio.AbstractEventLoop]] = []
    is_up, stop = threading.Event(), asyncio.Event()

    async def run() -> None:
        counters, orders, limits = Counters(), Orders(), Limits()
        api = ApiServer(
            _bound(api_path),
            ring,
            everybody_in(ring),
            counters,
            now=lambda: NOW,
            due_at=no_attempt,
        )
        admin = AdminServer(_bound(admin_path), ring, counters, orders, limits=limits)
        tcp = socket.create_server(("127.0.0.1", 0))
        metrics = MetricsServer(tcp, ring, counters)
        servers = (api, admin, metrics)
        for server in servers:
            await server.start()
        api_relay, api_port = await _relay_to(api_path)
        admin_relay, admin_port = await _relay_to(admin_path)
        services = Services(
            api_path, admin_path, api_port, admin_port, tcp.getsockname()[1], orders
        )
        started.append((services, asyncio.get_running_loop()))
        is_up.set()
        await stop.wait()
        for relay in (api_relay, admin_relay):
            relay.close()
        for server in servers:
            await server.close(0.5)

    thread = threading.Thread(target=lambda: uvloop.run(run()))
    thread.start()
    try:
        assert is_up.wait(DEADLINE_SECONDS)
        yield started[0][0]
    finally:
        started[0][1].call_soon_threadsafe(stop.set)
        thread.join(DEADLINE_SECONDS)
