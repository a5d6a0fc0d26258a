"""One request and its response on the agent's socket, without state or retries.

This module does not use http.client, whose import (with the email parser) takes longer
than the fetch. The agent's responses are simple (a Content-Length, no chunks), and the
client rejects other responses. `Response` parses bytes and does not read the socket:
both clients feed it.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import time
from typing import Any, Final

DEFAULT_SOCKET: Final = "/run/skragent/api.sock"

JSON: Final = "application/json"
FORMS: Final = {
    "jwk": "application/jwk+json",
    "pem": "application/x-pem-file",
    "der": "application/pkcs8",
    "raw": "application/octet-stream",
}

# The wait of a request of `watch`. After this time, `watch` notices a lost agent.
_WATCH_SECONDS: Final = 60.0
# Between two attempts of `watch`, if the agent is unreachable or sends Retry-After.
_LEAST_PAUSE_SECONDS: Final = 0.5
_MOST_PAUSE_SECONDS: Final = 60.0

_MAX_HEAD_BYTES: Final = 16 * 1024
_MAX_BODY_BYTES: Final = 4 * 1024 * 1024
READ_BYTES: Final = 65536
OK: Final = 200
NOT_MODIFIED: Final = 304
_FIRST_ERROR: Final = 400
_TEMPORARY: Final = (408, 429, 503)
_TEMPORARY_CODES: Final = ("client.unreachable", "client.timeout")

MOST_WAIT_SECONDS: Final = 300.0  # the agent's limit for a long poll
_TICK_SECONDS: Final = 2.0  # the agent checks deadlines once per second
_CODE_CHARACTERS: Final = "abcdefghijklmnopqrstuvwxyz0123456789_."
_MAX_CODE_CHARACTERS: Final = 64
_MAX_DETAIL_CHARACTERS: Final = 2000
_MAX_FORMATS: Final = 16
_UNRESERVED: Final = (
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
)


class SkragentError(Exception):
    """The agent rejected a request or did not respond.

    Attributes:
        code: a stable code of the agent. Without a response: client.unreachable,
            client.forbidden (the socket's mode), client.timeout or client.garbage.
        status: the HTTP status; 0 without a response.
        detail: one sentence.
        retry_after: seconds to wait, if the agent sent Retry-After.
        formats: the available media types, if the requested one is not available.
    """

    def __init__(
        self, code: str, status: int, detail: str, retry_after: float | None = None
    ) -> None:
        super().__init__(f"{detail} ({code})")
        self.code = code
        self.status = status
        self.detail = detail
        self.retry_after = retry_after
        self.formats: list[str] = []

    @property
    def is_temporary(self) -> bool:
        """Return whether the same request may succeed later without a change."""
        return self.status in _TEMPORARY or self.code in _TEMPORARY_CODES


class Key:
    """A key from the agent; `raw` has its bytes in the requested form."""

    def __init__(self, name: str, headers: dict[str, str], raw: bytes) -> None:
        self.name = name
        self.raw = raw
        self.version = headers.get("etag", "").strip('"')
        self.is_stale = headers.get("skragent-state") == "stale"  # refresh is overdue
        # Seconds since 1970, and since the vault's release; 0 if unknown.
        self.released_at = _number(headers.get("skragent-released-at", ""))
        self.age_seconds = _number(headers.get("age", ""))
        self._jwk: dict[str, Any] | None = None

    def __repr__(self) -> str:  # type: ignore[explicit-override] # 3.12's
        """Return name and version, without the key's bytes."""
        return f"Key({self.name!r}, version={self.version!r})"

    @property
    def jwk(self) -> dict[str, Any]:
        """Return the members of a JWK (RFC 7517), parsed at the first access.

        Raises:
            ValueError: the key was fetched in another form, or is not a JSON object.
        """
        if self._jwk is None:
            try:
                jwk = json.loads(self.raw)
            except RecursionError as error:
                raise ValueError("the key is nested too deeply for a JWK") from error
            if not isinstance(jwk, dict):
                raise ValueError("the key is not a JSON object")
            self._jwk = jwk
        return self._jwk


class Response:
    """A response, parsed from pieces of any size."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self._data = b""
        self._length = -1

    def feed(self, data: bytes) -> bool:
        """Add bytes; return whether the response is complete."""
        if not data:
            raise SkragentError(
                "client.unreachable", 0, "the agent closed the connection too early"
            )
        self._data += data
        if self._length < 0:
            head, end, rest = self._data.partition(b"\r\n\r\n")
            if not end:
                if len(head) > _MAX_HEAD_BYTES:
                    raise _garbage("the head does not end")
                return False
            self.status, self.headers = _parse_head(head)
            self._length = self._read_length()
            self._data = rest
        if len(self._data) > self._length:
            raise _garbage("longer than its Content-Length")
        self.body = self._data
        return len(self._data) == self._length

    def _read_length(self) -> int:
        if self.status == NOT_MODIFIED:
            return 0
        length = self.headers.get("content-length", "")
        if not (length.isascii() and length.isdigit() and len(length) <= len("9" * 9)):
            raise _garbage("no Content-Length")
        if int(length) > _MAX_BODY_BYTES:
            raise _garbage("too long")
        return int(length)

    def judged(self, request: Request) -> Response:
        """Return the response if it fits the request, or if nothing changed.

        Raises:
            SkragentError: the agent's error; client.garbage if the response does not
                fit the request.
        """
        if self.status >= _FIRST_ERROR:
            raise self._problem()
        if self.status == NOT_MODIFIED and request.known:
            return self
        if self.status != request.expects:
            raise _garbage(f"status {self.status}, not {request.expects}")
        media = self.headers.get("content-type", "")
        if media != request.accept or not self.body:
            raise _garbage(f"`{_one_line(media, 64)}`, not {request.accept}")
        if not _is_tag(self.headers.get("etag", "").strip('"')):
            raise _garbage("its ETag is not a version")
        return self

    def document(self) -> dict[str, Any]:
        """Parse the body as a JSON object.

        Raises:
            SkragentError: client.garbage
        """
        try:
            document = json.loads(self.body)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise _garbage("not a JSON object")
        return document

    def names(self, member: str) -> list[str]:
        """Return a list of names from the body.

        Raises:
            SkragentError: client.garbage
        """
        names = self.document().get(member)
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise _garbage(f"no list `{member}`")
        return names

    def _problem(self) -> SkragentError:
        """Return the error of an RFC 9457 problem document of any content."""
        try:
            document = self.document()
        except SkragentError:
            document = {}
        code, detail = document.get("code"), document.get("detail")
        if not (isinstance(code, str) and _is_code(code) and isinstance(detail, str)):
            return _garbage(f"status {self.status} without a problem document")
        waits = _number(self.headers.get("retry-after", ""))
        detail = _one_line(detail, _MAX_DETAIL_CHARACTERS)
        error = SkragentError(code, self.status, detail, waits or None)
        formats = document.get("formats")
        if isinstance(formats, list):
            error.formats = [
                _one_line(one, _MAX_CODE_CHARACTERS)
                for one in formats[:_MAX_FORMATS]
                if isinstance(one, str)
            ]
        return error


class Request:
    """A request, and the properties of its response; both clients use it.

    Raises:
        ValueError: `wait` is out of range.
    """

    def __init__(
        self,
        target: str,
        accept: str = JSON,
        *,
        wait: float = 0.0,
        known: str = "",
        method: str = "GET",
        body: bytes = b"",
        expects: int = OK,
    ) -> None:
        if not 0 <= wait <= MOST_WAIT_SECONDS:
            raise ValueError(f"wait is from 0 to {MOST_WAIT_SECONDS:.0f} seconds")
        self.accept = accept
        self.known = known
        self.expects = expects
        # Seconds beyond the client's own timeout.
        self.may_take = wait + _TICK_SECONDS if wait else 0.0
        if wait:
            target += f"{'&' if '?' in target else '?'}wait={wait:.3f}"
        tag = f'If-None-Match: "{known}"\r\n' if known else ""
        length = f"Content-Length: {len(body)}\r\n" if method != "GET" else ""
        head = (
            f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n"
            f"{tag}{length}Connection: close\r\n\r\n"
        )
        self.raw = head.encode("ascii") + body


def exchange(path: str, request: Request, timeout: float) -> Response:
    """Send one request to a socket and return its response.

    Args:
        path: path of the socket.
        request: the request.
        timeout: seconds for the whole exchange, without the request's wait.

    Raises:
        SkragentError: the agent's error, or client.*.
    """
    response, seconds = Response(), timeout + request.may_take
    deadline = time.monotonic() + seconds
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            connection.connect(path)
            try:  # noqa: SIM105 - contextlib would be one import more
                connection.sendall(request.raw)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the agent may respond and close before it reads the request
            _read(connection, response, deadline)
    except TimeoutError as error:
        raise no_response(path, seconds) from error
    except OSError as error:
        raise unreachable(path, error) from error
    return response.judged(request)


def _read(connection: socket.socket, response: Response, deadline: float) -> None:
    is_complete = False
    while not is_complete:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        is_complete = response.feed(connection.recv(READ_BYTES))


def key_target(name: str, version: str | None = None, suffix: str = "") -> str:
    """Return the path of a key."""
    query = "" if version is None else f"?version={_quote(version)}"
    return f"/v1/keys/{_quote(name)}{suffix}{query}"


def media_type(form: str) -> str:
    """Return the media type of a form; an unknown form is a ValueError."""
    if form not in FORMS:
        raise ValueError(f"form is one of {', '.join(FORMS)}, not {form!r}")
    return FORMS[form]


def text_of(response: Response) -> str:
    """Return a body in ASCII, such as PEM.

    Raises:
        SkragentError: client.garbage
    """
    try:
        return response.body.decode("ascii")
    except UnicodeDecodeError:
        raise _garbage("not ASCII") from None


def keys_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the list of keys of a document; each has a name and a state.

    Raises:
        SkragentError: client.garbage
    """
    keys = document.get("keys")
    if not isinstance(keys, list) or not all(map(_is_key, keys)):
        raise _garbage("no list of keys")
    return keys


def _is_key(key: object) -> bool:
    return isinstance(key, dict) and all(
        isinstance(key.get(member), str) for member in ("name", "state")
    )


def check_timeout(timeout: float) -> float:
    """Return the timeout if it is positive."""
    if not timeout > 0:
        raise ValueError(f"timeout is more than 0 seconds, not {timeout!r}")
    return timeout


def watch_request(name: str, form: str, version: str) -> Request:
    """Return a request for a version other than the given one."""
    accept = media_type(form)
    return Request(key_target(name), accept, wait=_WATCH_SECONDS, known=version)


def pause_after(error: SkragentError) -> float:
    """Return the pause before the next attempt; raise a permanent error."""
    if not error.is_temporary:
        raise error
    seconds = 1.0 if error.retry_after is None else error.retry_after
    return min(max(seconds, _LEAST_PAUSE_SECONDS), _MOST_PAUSE_SECONDS)


def _quote(text: str) -> str:
    """Percent-encode all but unreserved characters (RFC 3986 §2.3)."""
    return "".join(
        chr(byte) if byte in _UNRESERVED else f"%{byte:02X}"
        # The command line may contain surrogate escapes.
        for byte in text.encode(errors="surrogatepass")
    )


def _parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    status_line, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = status_line.partition(" ")
    status = rest[:3]
    if version != "HTTP/1.1" or not (status.isascii() and status.isdigit()):
        raise _garbage("not HTTP/1.1")
    pairs = (line.partition(":") for line in lines)
    return int(status), {name.lower(): value.strip() for name, _, value in pairs}


def _is_code(text: str) -> bool:
    is_short = 0 < len(text) <= _MAX_CODE_CHARACTERS
    return is_short and all(c in _CODE_CHARACTERS for c in text)


def _is_tag(text: str) -> bool:
    return text.isascii() and text.isprintable() and '"' not in text


def _one_line(text: str, max_characters: int) -> str:
    """Shorten a text and replace unprintable characters."""
    return "".join(c if c.isprintable() else "?" for c in text[:max_characters])


def _number(text: str) -> float:
    return float(text) if text.isascii() and text.isdigit() else 0.0


def no_response(path: str, seconds: float) -> SkragentError:
    """Return the error for a response that did not come in time."""
    return SkragentError("client.timeout", 0, f"{path}: no response in {seconds:g} s")


def unreachable(path: str, error: OSError) -> SkragentError:
    """Return the error for a socket that cannot be connected to."""
    is_forbidden = isinstance(error, PermissionError)
    code = "client.forbidden" if is_forbidden else "client.unreachable"
    why = error.strerror or str(error)
    if isinstance(error, ConnectionRefusedError) and not _is_socket(path):
        why = "is not a socket"
    return SkragentError(code, 0, f"{path}: {why}")


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)  # noqa: PTH116 - pathlib costs an import
    except OSError:
        return True  # the file was removed meanwhile


def _garbage(reason: str) -> SkragentError:
    return SkragentError("client.garbage", 0, f"invalid response: {reason}")
