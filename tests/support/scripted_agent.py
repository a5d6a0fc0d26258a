"""A substitute for the agent: a socket with fixed responses."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from support.deadlines import DEADLINE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

KEY = b"\x00the key\xff"


def ok(media_type: bytes, body: bytes, more: bytes = b"") -> bytes:
    """Encode a response; `more` are further lines of the head."""
    head = b"HTTP/1.1 200 OK\r\n%bContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
    return head % (more, media_type, len(body)) + body


def key(media_type: bytes = b"application/jwk+json", *, version: str = "") -> bytes:
    tag = b'ETag: "%b"\r\n' % version.encode() if version else b""
    return ok(media_type, KEY, tag)


def document(content: object, *, tag: str = "") -> bytes:
    """Encode a JSON response, such as a status; `tag` is its entity tag."""
    more = b'ETag: "%b"\r\n' % tag.encode() if tag else b""
    return ok(b"application/json", json.dumps(content).encode(), more)


def problem(
    status: int, code: str, *, more: bytes = b"", formats: Sequence[str] = ()
) -> bytes:
    content: dict[str, object] = {"code": code, "detail": "because"}
    body = json.dumps(content | ({"formats": formats} if formats else {})).encode()
    head = b"HTTP/1.1 %d X\r\n%bContent-Length: %d\r\n\r\n"
    return head % (status, more, len(body)) + body


@contextmanager
def agent(path: Path, *answers: bytes) -> Iterator[list[bytes]]:
    """Send these responses to one request each; yield the list of requests."""
    requests: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(DEADLINE_SECONDS)

        def serve() -> None:
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    requests.append(connection.recv(4096))
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield requests
        thread.join()
