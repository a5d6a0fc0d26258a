"""Keyrings on real sockets: in a thread, and in a child process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop
from support.deadlines import DEADLINE_SECONDS, wait_until
from support.serving import (
    ALIAS,
    NOW,
    VERSION,
    ReceivedResponse,
    everybody_in,
    key_of,
    no_attempt,
    ring_with,
    split_responses,
)

from skragent.observe import Counters
from skragent.secretmem import attach_arena, create_arena
from skragent.serving import ApiServer, MetricsServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from skragent.keyring import Keyring
    from skragent.serving import Access, Limits


class RunningServer:
    """A server in a thread."""

    def __init__(
        self,
        path: Path,
        ring: Keyring,
        api: ApiServer,
        metrics_port: int,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.path = path
        self.ring = ring
        self.api = api
        self.metrics_port = metrics_port
        self._loop = loop

    def call(self, function: Callable[[], object]) -> None:
        """Run a function on the server's loop."""

        async def run() -> None:
            function()

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(DEADLINE_SECONDS)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Pause the server during the block."""
        is_paused, go_on = threading.Event(), threading.Event()

        def pause() -> None:
            is_paused.set()
            go_on.wait(DEADLINE_SECONDS)

        self._loop.call_soon_threadsafe(pause)
        assert is_paused.wait(DEADLINE_SECONDS)
        try:
            yield
        finally:
            go_on.set()

    def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until a condition holds."""
        wait_until(is_so)

    def waiting(self) -> int:
        """Return the number of long polls."""
        counts: list[int] = []
        self.call(lambda: counts.append(len(self.api._api._long_polls)))
        return counts[0]

    @contextlib.contextmanager
    def as_soon_as_one_waits(self, function: Callable[[], object]) -> Iterator[None]:
        """Run a function on the loop of the server as soon as a long poll waits."""

        def run() -> None:
            self.until(lambda: self.waiting() > 0)
            self.call(function)

        thread = threading.Thread(target=run)
        thread.start()
        yield
        thread.join()

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(DEADLINE_SECONDS)
        connection.connect(str(self.path))
        return connection

    def ask(self, request: bytes) -> ReceivedResponse:
        """Send a request on a new connection."""
        with self.connect() as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            (response,) = split_responses(read_all(connection))
        return response


def read_all(connection: socket.socket) -> bytes:
    """Read until the peer closes."""
    data = b""
    while chunk := connection.recv(1 << 20):
        data += chunk
    return data


@contextlib.contextmanager
def serving(
    directory: Path,
    ring: Keyring,
    access: Access | None = None,
    limits: Limits | None = None,
) -> Iterator[RunningServer]:
    """Serve a keyring on a real socket, on uvloop, in a thread."""
    path = directory / "api.sock"
    started: list[RunningServer] = []
    is_up, stop = threading.Event(), asyncio.Event()

    async def run() -> None:
        counters = Counters()
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(path))
        path.chmod(0o666)
        api = ApiServer(
            sock,
            ring,
            access or everybody_in(ring),
            counters,
            now=lambda: NOW,
            due_at=no_attempt,
            limits=limits,
        )
        tcp = socket.create_server(("127.0.0.1", 0))
        metrics = MetricsServer(tcp, ring, counters)
        await api.start()
        await metrics.start()
        loop = asyncio.get_running_loop()
        started.append(
            RunningServer(path, ring, api, tcp.getsockname()[1], loop),
        )
        is_up.set()
        await stop.wait()
        await api.close(0.5)
        await metrics.close(0.5)

    thread = threading.Thread(target=lambda: uvloop.run(run()))
    thread.start()
    try:
        assert is_up.wait(DEADLINE_SECONDS)
        yield started[0]
    finally:
        started[0].call(stop.set)
        thread.join(DEADLINE_SECONDS)


def child_main() -> None:
    """Serve one key that another process put into the arena; argv: socket, fd, size,
    length. A canary comes on stdin and stays on the heap."""
    path, fd, size, length = sys.argv[1], *map(int, sys.argv[2:])
    arena = attach_arena(fd, size)
    canary = sys.stdin.readline()
    ring = ring_with(key_of(ALIAS, VERSION, {"pem": arena.view(0, length)}))

    async def run() -> None:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        api = ApiServer(
            sock,
            ring,
            everybody_in(ring),
            Counters(),
            now=lambda: NOW,
            due_at=no_attempt,
        )
        await api.start()
        sys.stdout.write(f"serving {len(canary)}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()

    uvloop.run(run())


@contextlib.contextmanager
def serving_child(
    directory: Path, content: bytes, canary: str
) -> Iterator[tuple[int, Path]]:
    """Serve `content` from a child process that only ever sees it in its arena."""
    arena = create_arena(len(content))
    arena.view(0, len(content))[:] = content
    path = directory / "child.sock"
    command = "from support.serving_server import child_main; child_main()"
    with subprocess.Popen(
        [
            *(sys.executable, "-c", command, str(path)),
            *map(str, (arena.fd, arena.size, len(content))),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=[arena.fd],
        env={"PYTHONPATH": str(Path(__file__).parents[1])},
    ) as child:
        arena.close_fd()
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(canary + "\n")
            child.stdin.flush()
            assert child.stdout.readline().startswith("serving")
            yield child.pid, path
        finally:
            child.kill()


def count_in_memory(pid: int, needle: bytes) -> int:
    """Count a pattern in the readable memory of a process."""
    found = 0
    with (
        Path(f"/proc/{pid}/maps").open() as maps,
        Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory,
    ):
        for line in maps:
            addresses, permissions, *_ = line.split()
            if not permissions.startswith("r"):
                continue
            start, end = (int(part, 16) for part in addresses.split("-"))
            try:
                memory.seek(start)
                found += (memory.read(end - start) or b"").count(needle)
            except (OSError, OverflowError):  # secret memory; [vsyscall]
                continue
    return found
