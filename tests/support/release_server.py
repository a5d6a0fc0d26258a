"""A server with scripted responses, over real sockets."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from azure.keyvault.keys._shared import http_challenge_cache
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from support.deadlines import DEADLINE_SECONDS
from typing_extensions import override

from skragent.identity import Identity
from skragent.release.access_tokens import AccessTokens
from skragent.release.azure_credentials import make_credential
from skragent.transport import HttpClient

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Asked:
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int


@dataclass(frozen=True)
class Answer:
    """What to answer; `then` may misbehave instead of ending properly."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    then: str = ""  # "hang", "reset", "cut"


def json_answer(value: object, status: int = 200, **headers: str) -> Answer:
    return Answer(
        status,
        json.dumps(value).encode(),
        {"Content-Type": "application/json; charset=utf-8", **headers},
    )


ACCESS_TOKEN = {
    "access_token": "the-access-token",
    "client_id": "c",
    "expires_in": "86399",
    "expires_on": "1795538013",
    "ext_expires_in": "86399",
    "not_before": "1795451614",
    "resource": "r",
    "token_type": "Bearer",
}


def challenge(resource: str) -> Answer:
    """Return a vault's response to a request without a token."""
    text = f'Bearer authorization="https://login.windows.net/t", resource="{resource}"'
    return Answer(401, headers={"WWW-Authenticate": text})


class Server:
    """Answers every request with `answer`, and records the requests."""

    def __init__(self, answer: Callable[[Asked], Answer]) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        self.over = threading.Event()
        self.connections = 0
        self.origin = ""

    def paths(self) -> list[str]:
        return [f"{asked.method} {asked.path}" for asked in self.asked]


@contextlib.contextmanager
def serve(
    answer: Callable[[Asked], Answer], tls: ssl.SSLContext | None = None
) -> Iterator[Server]:
    """Serve on 127.0.0.1 until the block ends."""
    server = Server(answer)
    http = ThreadingHTTPServer(("127.0.0.1", 0), _make_handler(server))
    http.daemon_threads = True
    scheme = "http"
    if tls is not None:
        http.socket = tls.wrap_socket(
            http.socket, server_side=True, do_handshake_on_connect=False
        )
        scheme = "https"
    server.origin = f"{scheme}://127.0.0.1:{http.server_address[1]}"
    # Azure's library remembers for the process what a vault at a port demands, and
    # ports come again.
    http_challenge_cache.clear()
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        http.shutdown()
        thread.join()
        http.server_close()


def _make_handler(server: Server) -> type[_Handler]:
    return type("Handler", (_Handler,), {"scripted": server})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    scripted: Server

    @override
    def setup(self) -> None:
        self.scripted.connections += 1
        self.number = self.scripted.connections
        super().setup()

    @override
    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the client may leave any time
            super().handle()

    @override
    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()

    @override
    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        self._do()

    def do_GET(self) -> None:
        self._do()

    def _do(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        asked = Asked(
            self.command,
            self.path,
            dict(self.headers),
            self.rfile.read(size),
            self.number,
        )
        self.scripted.asked.append(asked)
        self._say(self.scripted.answer(asked))

    def _say(self, answer: Answer) -> None:
        self.close_connection = answer.then != ""
        if answer.then == "hang":
            self.scripted.over.wait(DEADLINE_SECONDS)
            return
        if answer.then == "reset":
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if "Transfer-Encoding" not in answer.headers:
            size = len(answer.body) + (100 if answer.then == "cut" else 0)
            self.send_header("Content-Length", str(size))
        self.end_headers()
        self.wfile.write(answer.body)


def make_tls(directory: Path) -> tuple[ssl.SSLContext, str]:
    """Mint a CA and a server; gives the server's context and the CA's file."""
    now = datetime.now(UTC)  # noqa: TID251 - TLS is judged by the real clock
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = x509.Name.from_rfc4514_string("CN=Test TLS CA")
    builder = x509.CertificateBuilder().not_valid_before(now - timedelta(days=1))
    builder = builder.not_valid_after(now + timedelta(days=1)).issuer_name(ca_name)
    ca = (
        builder.subject_name(ca_name)
        .public_key(ca_key.public_key())
        .serial_number(1)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    leaf = (
        builder.subject_name(x509.Name.from_rfc4514_string("CN=Test Server"))
        .public_key(key.public_key())
        .serial_number(2)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    ca_file, server_file = directory / "ca.pem", directory / "server.pem"
    ca_file.write_bytes(ca.public_bytes(Encoding.PEM))
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    server_file.write_bytes(leaf.public_bytes(Encoding.PEM) + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server_file)
    return context, str(ca_file)


@contextlib.contextmanager
def access_tokens(
    who: Identity,
    timeout_seconds: float,
    *,
    authority: str = "https://login.microsoftonline.com",
    ca_file: str = "",
) -> Iterator[AccessTokens]:
    """An identity's tokens over connections of its own."""
    http = HttpClient(
        timeout_seconds=timeout_seconds, ca_file=ca_file, use_proxies=False
    )
    session = http.new_session()
    try:
        yield AccessTokens(
            make_credential(
                who,
                authority=authority,
                session=session,
            ),
            session,
        )
    finally:
        http.close()
