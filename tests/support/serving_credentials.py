"""The side of systemd on credentials.sock, and a server in a thread."""

from __future__ import annotations

import asyncio
import os
import secrets
import select
import socket
import threading
from typing import TYPE_CHECKING, Self

import uvloop
from support.deadlines import DEADLINE_SECONDS

from skragent.observe import Counters
from skragent.serving.systemd_credentials import REJECT_SECONDS, CredentialServer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from skragent.keyring import Keyring

UNIT = "web.service"
TOO_MUCH = 1024 * 1024  # the limit of all credentials of a unit


class Systemd:
    """A descriptor store, as PID 1 has."""

    def __init__(self) -> None:
        self.kept: dict[str, socket.socket] = {}

    def store_connection(self, fd: int) -> str:
        name = f"credential-{secrets.token_hex(4)}"
        self.kept[name] = socket.socket(fileno=os.dup(fd))
        return name

    def remove_fd(self, name: str) -> None:
        self.kept.pop(name).close()

    def hand_over(self) -> list[tuple[str, socket.socket]]:
        """Return copies for the next agent."""
        return [(name, sock.dup()) for name, sock in self.kept.items()]


class OneRule:
    """Access rules that allow one unit one key."""

    def __init__(self, unit: str, alias: str) -> None:
        self.allowed = (unit, alias)

    def allows_unit(self, unit: str, alias: str) -> bool:
        return (unit, alias) == self.allowed


class CredentialRequest:
    """A process of systemd that loads a credential for a unit."""

    def __init__(self, path: Path, address: bytes | str, unit: str = UNIT) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(DEADLINE_SECONDS)
        if isinstance(address, str):
            address = b"\0%s/unit/%s/%s" % (
                secrets.token_hex(8).encode(),
                unit.encode(),
                address.encode(),
            )
        self.sock.bind(address)
        self.sock.connect(str(path))
        self.sock.shutdown(socket.SHUT_WR)

    def read(self) -> bytes:
        """Read the credential, to the end of the connection as systemd does."""
        data = b""
        with self.sock:
            while chunk := self.sock.recv(1 << 16):
                data += chunk
        return data

    def is_rejected(self) -> bool:
        """Return whether the response is too large for a unit, and has no key."""
        data = self.read()
        return len(data) > TOO_MUCH and not data.strip(b"\0")

    def has_response(self) -> bool:
        return bool(select.select([self.sock], [], [], 0)[0])


class RunningCredentials:
    """A server in a thread."""

    def __init__(
        self,
        directory: Path,
        ring: Keyring,
        access: object,
        *,
        wait_seconds: float = DEADLINE_SECONDS,
        reject_seconds: float = REJECT_SECONDS,
        systemd: Systemd | None = None,
        restored: Sequence[tuple[str, socket.socket]] = (),
    ) -> None:
        self.path = directory / f"{secrets.token_hex(4)}.sock"
        self.systemd = systemd or Systemd()
        self.counters = Counters()
        self.ring = ring
        self._is_up = threading.Event()
        self._arguments = (access, wait_seconds, restored)
        self._reject_seconds = reject_seconds
        self._thread = threading.Thread(target=lambda: uvloop.run(self._run()))

    async def _run(self) -> None:
        access, wait_seconds, restored = self._arguments
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(self.path))
        self.path.chmod(0o666)
        self.server = CredentialServer(
            sock,
            self.ring,
            access,  # type: ignore[arg-type]
            self.counters,
            wait_seconds=wait_seconds,
            store=self.systemd,
            restored=restored,
        )
        await self.server.start()
        self._is_up.set()
        await self._stop.wait()
        await self.server.close(self._reject_seconds)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._is_up.wait(DEADLINE_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Stop in order."""
        if self._thread.is_alive():
            self.call(self._stop.set)
            self._thread.join(DEADLINE_SECONDS)

    def call(self, function: Callable[[], object]) -> object:
        """Run a function on the server's loop."""

        async def run() -> object:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(
            DEADLINE_SECONDS
        )

    def settle(self) -> None:
        """Let the server see all that has happened to its sockets until now."""
        for _ in range(2):  # the first one may run before the others of its turn
            self.call(lambda: None)

    def answered(self) -> dict[str, int]:
        """How many were answered, by the code."""
        requests = self.counters.requests
        return {code: requests[key].value for key in requests if (code := key[2])}

    def until_waiting(self, count: int = 1) -> None:
        """Wait until so many wait for a key."""
        while self.call(lambda: self.counters.in_flight["credentials"]) != count:
            pass
