"""A proxy for CONNECT that relays encrypted bytes."""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import threading
from collections.abc import Iterator

from support.deadlines import DEADLINE_SECONDS, wait_until


class TunnelProxy:
    """The proxy's URL in `origin`, and counts of its tunnels."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.tunnels = 0
        self.ended = 0  # tunnels whose client has received the end

    def wait_for_ends(self, count: int) -> None:
        """Wait until the clients of this number of tunnels have received the end."""
        wait_until(lambda: self.ended >= count)


def _relay(client: socket.socket, target: socket.socket) -> None:
    """Relay until one side ends; in one thread, because OpenSSL requires that."""
    with selectors.DefaultSelector() as selector:
        selector.register(client, selectors.EVENT_READ, target)
        selector.register(target, selectors.EVENT_READ, client)
        while True:
            for key, _ in selector.select():
                source, sink = key.fileobj, key.data
                assert isinstance(source, socket.socket)
                is_pending = True
                while is_pending:
                    data = source.recv(65536)
                    if not data:
                        return
                    sink.sendall(data)
                    is_pending = isinstance(source, ssl.SSLSocket) and bool(
                        source.pending()
                    )


@contextlib.contextmanager
def run_tunnel_proxy(tls: ssl.SSLContext | None = None) -> Iterator[TunnelProxy]:
    """Serve on a free port of 127.0.0.1, with TLS if a context is given."""
    connections: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def talk(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if tls is not None:
                connection = tls.wrap_socket(connection.dup(), server_side=True)
            head = b""
            while b"\r\n\r\n" not in head:
                received = connection.recv(65536)
                if not received:
                    return
                head += received
            host, _, port = head.split()[1].decode().rpartition(":")
            target = socket.create_connection((host, int(port)), DEADLINE_SECONDS)
            connections.extend((connection, target))
            proxy.tunnels += 1
            connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            with connection, target:
                try:
                    _relay(connection, target)
                    connection.shutdown(
                        socket.SHUT_RDWR
                    )  # of the duplicate socket, too
                finally:
                    proxy.ended += 1

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connection.settimeout(DEADLINE_SECONDS)
                connections.append(connection)
                thread = threading.Thread(target=talk, args=(connection,), daemon=True)
                threads.append(thread)
                thread.start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        scheme = "http" if tls is None else "https"
        proxy = TunnelProxy(f"{scheme}://127.0.0.1:{listener.getsockname()[1]}")
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            for sock in (listener, *connections):
                with contextlib.suppress(OSError):  # it is closed
                    sock.shutdown(socket.SHUT_RDWR)
            for one in [thread, *threads]:
                one.join(DEADLINE_SECONDS)
            for sock in connections:
                sock.close()
