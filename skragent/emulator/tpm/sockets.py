"""The vTPM's sockets for the TCTI `swtpm:path=…`, and the processes that use them.

libtss2's swtpm TCTI opens a new connection for every command (observed with 3.2.1, and
in its source: connect in transmit, close in receive). So a connection does not
identify a client. A client is a process: SO_PEERCRED gives its pid, and its pidfd
reports its end. Processes in another PID namespace cannot be told apart and share one
space. The kernel's resource manager also flushes the objects of a process that ends,
but it gives two TSS contexts of one process two spaces; here they share one.

Beside `PATH` the TCTI requires a control socket at `PATH.ctrl` (swtpm's protocol).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from skragent.emulator.tpm import messages as tpm
from skragent.emulator.tpm.swtpm import VtpmError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from skragent.emulator.tpm.resource_manager import Space
    from skragent.emulator.tpm.vtpm import Vtpm

_MAX_ADDRESS_BYTES: Final = 107  # sockaddr_un.sun_path, less its final NUL
_UNSEEN: Final = 0  # SO_PEERCRED's pid for a process in another PID namespace

# swtpm's control protocol (tpm_ioctl.h): commands, capability bits, results.
_CMD_GET_CAPABILITY: Final = 1
_CMD_SET_LOCALITY: Final = 5
_CMD_CANCEL: Final = 9
_CAP_SET_LOCALITY_AND_CANCEL: Final = 1 << 3 | 1 << 5
_SUCCESS: Final = 0
_BAD_ORDINAL: Final = 0x0A
_BAD_LOCALITY: Final = 0x3D


@dataclass(slots=True)
class _Client:
    space: Space
    pidfd: int | None  # None: in another namespace, or the process has ended


class VtpmSockets:
    """Serves a vTPM at a path.

    Raises:
        VtpmError: the path is too long for a Unix socket.
    """

    def __init__(self, vtpm: Vtpm, path: Path) -> None:
        self._vtpm = vtpm
        self.path = path
        self._control_path = path.with_name(f"{path.name}.ctrl")
        if len(os.fsencode(self._control_path)) > _MAX_ADDRESS_BYTES:
            raise VtpmError(
                f"{self._control_path}: longer than {_MAX_ADDRESS_BYTES} bytes, the"
                " limit of a Unix socket's address; use a directory with a shorter path"
            )
        self._clients: dict[int, _Client] = {}
        self._servers: list[asyncio.Server] = []
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._departures: set[asyncio.Task[None]] = set()

    async def listen(self) -> None:
        """Open both sockets."""
        for path, serve in (
            (self.path, self._serve_commands),
            (self._control_path, self._serve_control),
        ):
            self._servers.append(
                await asyncio.start_unix_server(serve, os.fspath(path))
            )

    async def close(self) -> None:
        """Close the sockets and disconnect each client after its current command."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        await self.drop_clients()
        for path in (self.path, self._control_path):
            path.unlink(missing_ok=True)

    async def drop_clients(self) -> None:
        """Close every connection and flush every client, as a reset does."""
        for writer in self._connections.values():
            writer.transport.abort()
        await asyncio.gather(*self._connections, return_exceptions=True)
        for pid in list(self._clients):
            self._depart(pid)
        await asyncio.gather(*self._departures)

    async def _serve_commands(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        async with self._registered(writer):
            client = self._find_client(writer)
            while True:
                command = await _read_command(reader)
                if command is None:  # the start of the next command is unknown
                    writer.write(tpm.Response(tpm.RC_COMMAND_SIZE).encode())
                    await writer.drain()
                    return
                writer.write(await self._vtpm.execute(client.space, command))
                await writer.drain()

    async def _serve_control(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        async with self._registered(writer):
            known = True
            while known:
                code = int.from_bytes(await reader.readexactly(4))
                result = struct.pack(">I", _SUCCESS)
                if code == _CMD_SET_LOCALITY:
                    if await reader.readexactly(1) != b"\0":  # a guest has locality 0
                        result = struct.pack(">I", _BAD_LOCALITY)
                elif code == _CMD_GET_CAPABILITY:
                    result += struct.pack(">I", _CAP_SET_LOCALITY_AND_CANCEL)
                elif code != _CMD_CANCEL:  # cancelling does nothing, as in swtpm
                    # Guests cannot cycle the power. The payload's length is unknown.
                    result = struct.pack(">I", _BAD_ORDINAL)
                    known = False
                writer.write(result)
                await writer.drain()

    @contextlib.asynccontextmanager
    async def _registered(self, writer: asyncio.StreamWriter) -> AsyncIterator[None]:
        """Register a connection while it is served; ignore how it ends."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a connection is served by a task")
        self._connections[task] = writer
        try:
            yield
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            del self._connections[task]

    def _find_client(self, writer: asyncio.StreamWriter) -> _Client:
        pid = _peer_pid(writer)
        client = self._clients.get(pid)
        if client is not None and pid != _UNSEEN and _has_ended(client.pidfd):
            self._depart(pid)  # the kernel has given the pid to another process
            client = None
        if client is None:
            client = self._clients[pid] = self._admit(pid)
        return client

    def _admit(self, pid: int) -> _Client:
        pidfd: int | None = None
        if pid != _UNSEEN:
            # The process has ended: it is flushed when its pid is used again.
            with contextlib.suppress(ProcessLookupError):
                pidfd = os.pidfd_open(pid)
        if pidfd is not None:
            asyncio.get_running_loop().add_reader(pidfd, self._depart, pid)
        return _Client(self._vtpm.open(), pidfd)

    def _depart(self, pid: int) -> None:
        """Flush the objects of a client that has disconnected."""
        client = self._clients.pop(pid)
        if client.pidfd is not None:
            asyncio.get_running_loop().remove_reader(client.pidfd)
            os.close(client.pidfd)
        task = asyncio.create_task(self._vtpm.close(client.space))
        self._departures.add(task)
        task.add_done_callback(self._departures.discard)


async def _read_command(reader: asyncio.StreamReader) -> bytes | None:
    """Read a command; None if the size in its header is impossible."""
    header = await reader.readexactly(tpm.HEADER_BYTES)
    (size,) = struct.unpack_from(">I", header, 2)
    if not tpm.HEADER_BYTES <= size <= tpm.MAX_COMMAND_BYTES:
        return None
    return header + await reader.readexactly(size - tpm.HEADER_BYTES)


def _peer_pid(writer: asyncio.StreamWriter) -> int:
    peer: socket.socket = writer.get_extra_info("socket")
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid: int = struct.unpack("iII", credentials)[0]
    return pid


def _has_ended(pidfd: int | None) -> bool:
    if pidfd is None:
        return True
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))
