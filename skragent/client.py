"""Keys for a workload: the standard library alone, and cheap to import.

    from skragent.client import SkragentClient
    pem = SkragentClient().get_pem("db")

One request is one connection: nothing stays open, and fork and threads need no care.
Everything that can go wrong is a `SkragentError` with the agent's stable `code`.

Without http.client and its email parser, which would cost more than the fetch: the
agent's answers are plain (a Content-Length, no chunks), and what is not is refused.
"""

from __future__ import annotations

import json
import socket
from typing import Any, Final

__all__ = ["DEFAULT_SOCKET", "Key", "SkragentClient", "SkragentError"]

DEFAULT_SOCKET: Final = "/run/skragent/api.sock"

JWK: Final = "application/jwk+json"
PEM: Final = "application/x-pem-file"
PKCS8: Final = "application/pkcs8"
RAW: Final = "application/octet-stream"
_FORMS: Final = {"jwk": JWK, "pem": PEM, "der": PKCS8, "raw": RAW}

_MAX_HEAD_BYTES: Final = 16 * 1024
_MAX_BODY_BYTES: Final = 4 * 1024 * 1024
_OK: Final = 200
_UNRESERVED: Final = (
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
)


class SkragentError(Exception):
    """The agent did not give what was asked for, or was not there.

    Attributes:
        code: stable: the agent's, or client.unreachable, client.timeout,
            client.garbage where the agent did not answer.
        status: the HTTP status; 0 where there was no answer.
        detail: one sentence.
        retry_after: seconds that the agent asks to wait, where it does.
    """

    def __init__(
        self, code: str, status: int, detail: str, retry_after: float | None = None
    ) -> None:
        super().__init__(f"{detail} ({code})")
        self.code = code
        self.status = status
        self.detail = detail
        self.retry_after = retry_after


class Key:
    """A key as a JSON Web Key (RFC 7517)."""

    def __init__(self, name: str, version: str, raw: bytes) -> None:
        self.name = name
        self.version = version
        self.raw = raw  # the JSON text
        self._jwk: dict[str, Any] | None = None

    @property
    def jwk(self) -> dict[str, Any]:
        """Return the JWK's members; read the first time that somebody asks."""
        if self._jwk is None:
            jwk: dict[str, Any] = json.loads(self.raw)
            self._jwk = jwk
        return self._jwk


class SkragentClient:
    """Asks the agent on its Unix socket.

    Args:
        socket: the path of api.sock.
        timeout: seconds for each step of one request.
    """

    def __init__(self, socket: str = DEFAULT_SOCKET, *, timeout: float = 10.0) -> None:
        self._path = socket
        self._timeout = timeout

    def list_keys(self) -> list[dict[str, Any]]:
        """Return what this process may see: name, state, version, type, formats."""
        _, body = self._get("/v1/keys", "application/json")
        keys: list[dict[str, Any]] = json.loads(body)["keys"]
        return keys

    def get_key(self, name: str, version: str | None = None) -> Key:
        """Fetch a key as a JWK."""
        headers, body = self._get(_key_path(name, version), JWK)
        return Key(name, headers.get("etag", "").strip('"'), body)

    def get_pem(self, name: str, version: str | None = None) -> str:
        """Fetch a private key as PEM (PKCS#8)."""
        return self.get_bytes(name, "pem", version).decode("ascii")

    def get_bytes(self, name: str, form: str, version: str | None = None) -> bytes:
        """Fetch a key's bytes: `form` is jwk, pem, der (PKCS#8) or raw (oct)."""
        if form not in _FORMS:
            raise ValueError(f"form is one of {', '.join(_FORMS)}, not {form!r}")
        return self._get(_key_path(name, version), _FORMS[form])[1]

    def _get(self, path: str, accept: str) -> tuple[dict[str, str], bytes]:
        request = (
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n"
            "Connection: close\r\n\r\n"
        ).encode("ascii")
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(self._timeout)
                connection.connect(self._path)
                connection.sendall(request)
                status, headers, body = _read_answer(connection)
        except TimeoutError as error:
            raise SkragentError(
                "client.timeout", 0, f"no answer in {self._timeout:g} s"
            ) from error
        except OSError as error:
            raise SkragentError(
                "client.unreachable", 0, f"{self._path}: {error.strerror or error}"
            ) from error
        if status != _OK:
            raise _problem(status, headers, body)
        return headers, body


def _key_path(name: str, version: str | None) -> str:
    query = "" if version is None else f"?version={_quote(version)}"
    return f"/v1/keys/{_quote(name)}{query}"


def _quote(text: str) -> str:
    """Percent-encode all but unreserved characters (RFC 3986 §2.3)."""
    return "".join(
        chr(byte) if byte in _UNRESERVED else f"%{byte:02X}"
        # Python's words for bytes of the command line that are no text, too.
        for byte in text.encode(errors="surrogatepass")
    )


def _read_answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0:
        if len(data) > _MAX_HEAD_BYTES:
            raise _garbage("its head does not end")
        data += _read_some(connection)
    status, headers = _parse_head(data[:end])
    length = headers.get("content-length", "")
    if not (length.isascii() and length.isdigit() and len(length) < len(str(2**31))):
        raise _garbage("it does not say how long it is")
    if int(length) > _MAX_BODY_BYTES:
        raise _garbage("it is too long")
    body = data[end + 4 :]
    while len(body) < int(length):
        body += _read_some(connection)
    if len(body) > int(length):
        raise _garbage("it is longer than it says")
    return status, headers, body


def _read_some(connection: socket.socket) -> bytes:
    chunk = connection.recv(65536)
    if not chunk:
        raise _garbage("it ends early")
    return chunk


def _parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    status_line, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = status_line.partition(" ")
    status = rest[:3]
    if version != "HTTP/1.1" or not (status.isascii() and status.isdigit()):
        raise _garbage("it is not HTTP/1.1")
    pairs = (line.partition(":") for line in lines)
    return int(status), {name.lower(): value.strip() for name, _, value in pairs}


def _problem(status: int, headers: dict[str, str], body: bytes) -> SkragentError:
    """Read a problem document (RFC 9457)."""
    try:
        document = json.loads(body)
        code, detail = str(document["code"]), str(document["detail"])
    except (ValueError, KeyError, TypeError):
        return _garbage(f"it is status {status} without a problem document")
    waits = headers.get("retry-after", "")
    seconds = float(waits) if waits.isascii() and waits.isdigit() else None
    return SkragentError(code, status, detail, seconds)


def _garbage(what: str) -> SkragentError:
    return SkragentError(
        "client.garbage", 0, f"the agent's answer cannot be used: {what}"
    )
