"""A server whose responses are arbitrary bytes, possibly without an end."""

from __future__ import annotations

import contextlib
import itertools
import socket
import ssl
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from support.deadlines import DEADLINE_SECONDS

# One response: pieces of bytes, which are sent one after the other.
Script = Callable[[], Iterable[bytes]]

DRIP_SECONDS = 0.02
BLOCK = bytes(1 << 20)


@dataclass
class HostileServer:
    """Sends `script` to every request, or closes the connection unread for None."""

    port: int = 0
    script: Script = field(default=lambda: ())
    is_dripping: bool = False  # a pause before each piece
    sent: int = 0  # bytes that the client has received
    requests: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def url(self, scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self.port}"

    def answer(self, *pieces: bytes) -> None:
        self.script, self.is_dripping = (lambda: pieces), False

    def drip(self, before: bytes, pieces: Sequence[bytes]) -> None:
        """Send `before` at once, and then repeat these pieces slowly without an end."""
        self.script = lambda: itertools.chain([before], itertools.cycle(pieces))
        self.is_dripping = True

    def flood(self, head: bytes, size: int) -> None:
        """Send a body of this size; the head may declare another size."""
        blocks = size // len(BLOCK)
        self.script = lambda: itertools.chain([head], itertools.repeat(BLOCK, blocks))
        self.is_dripping = False

    def bomb(self, head: bytes, size: int) -> None:
        """Send a compressed body that expands to this size."""
        packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
        packed = [packer.compress(BLOCK) for _ in range(size // len(BLOCK))]
        self.answer(head, *packed, packer.flush())


def _serve(server: HostileServer, connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        connection.settimeout(DEADLINE_SECONDS)
        while True:
            head = b""
            while b"\r\n\r\n" not in head:
                received = connection.recv(65536)
                if not received:
                    return
                head += received
            server.requests += 1
            for piece in server.script():
                if server.is_dripping and server.over.wait(DRIP_SECONDS):
                    return
                connection.sendall(piece)
                server.sent += len(piece)
            if server.script() == ():
                return
            connection.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def run_hostile_server(tls: ssl.SSLContext | None = None) -> Iterator[HostileServer]:
    """Serve on a free port of 127.0.0.1 until the context ends."""
    server = HostileServer()
    threads: list[threading.Thread] = []
    connections: list[socket.socket] = []

    def accept(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.append(connection)
            thread = threading.Thread(target=talk, args=(connection,), daemon=True)
            threads.append(thread)
            thread.start()

    def talk(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            if tls is None:
                _serve(server, connection)
            else:  # a duplicate, so that the original socket can still be shut down
                _serve(server, tls.wrap_socket(connection.dup(), server_side=True))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server.port = listener.getsockname()[1]
        thread = threading.Thread(target=accept, args=(listener,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            for sock in (listener, *connections):
                with contextlib.suppress(OSError):  # it is closed
                    sock.shutdown(socket.SHUT_RDWR)
            for one in [thread, *threads]:
                one.join(DEADLINE_SECONDS)
