"""A local HTTP server whose responses a test defines, byte by byte if needed."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from support.deadlines import DEADLINE_SECONDS


@dataclass
class Server:
    """The received requests, and the response to the next connection."""

    port: int = 0
    answer: bytes = b""
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    stays_silent: bool = False
    hangs_up: bool = False  # on the next connection, once
    hung_up: threading.Event = field(default_factory=threading.Event)

    def set(self, status: str = "200 OK", body: bytes = b"", headers: str = "") -> None:
        """Answer this from now on."""
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        self.answer = head.encode() + body

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def _read_request(connection: socket.socket) -> bytes:
    """Read a request with its body; empty at the connection's end."""
    request = b""
    while b"\r\n\r\n" not in request:
        received = connection.recv(65536)
        if not received:
            return b""
        request += received
    head, _, body = request.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    missing = int(length[1]) - len(body) if length else 0
    return request + (connection.recv(missing) if missing else b"")


def _serve(server: Server, connection: socket.socket, stop: threading.Event) -> None:
    server.connections += 1
    with connection, contextlib.suppress(OSError):
        if server.hangs_up:
            server.hangs_up = False
            connection.close()
            server.hung_up.set()
            return
        while not stop.is_set():
            request = _read_request(connection)
            if not request:
                return
            server.requests.append(request)
            if server.stays_silent:
                stop.wait(DEADLINE_SECONDS)
                return
            connection.sendall(server.answer)
            if b"Content-Length" not in server.answer:
                return


def _accept(
    server: Server,
    listener: socket.socket,
    tls: ssl.SSLContext | None,
    stop: threading.Event,
) -> None:
    while not stop.is_set():
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        if tls is not None:
            try:
                connection = tls.wrap_socket(connection, server_side=True)
            except OSError:
                connection.close()
                continue
        worker = threading.Thread(
            target=_serve, args=(server, connection, stop), daemon=True
        )
        worker.start()


@contextlib.contextmanager
def run_server(tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Serve on a free port of 127.0.0.1 until the context ends."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(port=listener.getsockname()[1])
        server.set()
        thread = threading.Thread(
            target=_accept, args=(server, listener, tls, stop), daemon=True
        )
        thread.start()
        try:
            yield server
        finally:
            stop.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(DEADLINE_SECONDS)
