"""One request and its answer on the agent's socket. No state, no retries.

Without http.client and its email parser, which would cost more than the fetch: the
agent's answers are plain (a Content-Length, no chunks), and what is not is refused.
Reading an answer is apart from the socket: both clients feed it what they read.
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

# What `watch` asks the agent to hold a request for; a lost agent is noticed then.
_WATCH_SECONDS: Final = 60.0
# Between two attempts of `watch` where the agent is not there or asks to wait.
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

MOST_WAIT_SECONDS: Final = 300.0  # the agent holds a request no longer
_TICK_SECONDS: Final = 2.0  # it looks at its watch each second
_CODE_CHARACTERS: Final = "abcdefghijklmnopqrstuvwxyz0123456789_."
_MAX_CODE_CHARACTERS: Final = 64
_MAX_DETAIL_CHARACTERS: Final = 2000
_MAX_FORMATS: Final = 16
_UNRESERVED: Final = (
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
)


class SkragentError(Exception):
    """The agent did not give what was asked for, or was not there.

    Attributes:
        code: stable: the agent's; or, where it did not answer, client.unreachable,
            client.forbidden (the socket's mode), client.timeout, client.garbage.
        status: the HTTP status; 0 where there was no answer.
        detail: one sentence.
        retry_after: seconds that the agent asks to wait, where it does.
        formats: the media types that there are, where another one was asked for.
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
        """Tell whether the same request may succeed later, with nothing changed."""
        return self.status in _TEMPORARY or self.code in _TEMPORARY_CODES


class Key:
    """A key as it was served; `raw` are its bytes in the form that was asked for."""

    def __init__(self, name: str, headers: dict[str, str], raw: bytes) -> None:
        self.name = name
        self.raw = raw
        self.version = headers.get("etag", "").strip('"')
        self.is_stale = headers.get("skragent-state") == "stale"  # refresh is overdue
        # Seconds since 1970, and since the vault released it; 0 where it is not told.
        self.released_at = _number(headers.get("skragent-released-at", ""))
        self.age_seconds = _number(headers.get("age", ""))
        self._jwk: dict[str, Any] | None = None

    def __repr__(self) -> str:  # type: ignore[explicit-override] # 3.12's
        """Show which key it is, and not a byte of it."""
        return f"Key({self.name!r}, version={self.version!r})"

    @property
    def jwk(self) -> dict[str, Any]:
        """Return a JWK's members (RFC 7517); read the first time that somebody asks.

        Raises:
            ValueError: it was fetched in another form, or it is no JSON object.
        """
        if self._jwk is None:
            try:
                jwk = json.loads(self.raw)
            except RecursionError as error:
                raise ValueError("the key is nested too deeply for a JWK") from error
            if not isinstance(jwk, dict):
                raise ValueError("the key is no JSON object, as a JWK is")
            self._jwk = jwk
        return self._jwk


class Answer:
    """An answer as it comes in, in any pieces."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self._data = b""
        self._length = -1

    def feed(self, data: bytes) -> bool:
        """Take in what was read; tell whether that is all of it."""
        if not data:
            raise SkragentError(
                "client.unreachable", 0, "the agent ended before its answer did"
            )
        self._data += data
        if self._length < 0:
            head, end, rest = self._data.partition(b"\r\n\r\n")
            if not end:
                if len(head) > _MAX_HEAD_BYTES:
                    raise _garbage("its head does not end")
                return False
            self.status, self.headers = _parse_head(head)
            self._length = self._read_length()
            self._data = rest
        if len(self._data) > self._length:
            raise _garbage("it is longer than it says")
        self.body = self._data
        return len(self._data) == self._length

    def _read_length(self) -> int:
        if self.status == NOT_MODIFIED:
            return 0
        length = self.headers.get("content-length", "")
        if not (length.isascii() and length.isdigit() and len(length) <= len("9" * 9)):
            raise _garbage("it does not say how long it is")
        if int(length) > _MAX_BODY_BYTES:
            raise _garbage("it is too long")
        return int(length)

    def judged(self, request: Request) -> Answer:
        """Return it where it is what was asked for, or nothing new.

        Raises:
            SkragentError: as the agent says; client.garbage where that is no answer to
                this request.
        """
        if self.status >= _FIRST_ERROR:
            raise self._problem()
        if self.status == NOT_MODIFIED and request.known:
            return self
        if self.status != request.expects:
            raise _garbage(f"it is status {self.status}, not {request.expects}")
        media = self.headers.get("content-type", "")
        if media != request.accept or not self.body:
            raise _garbage(f"it is `{_one_line(media, 64)}`, not {request.accept}")
        if not _is_tag(self.headers.get("etag", "").strip('"')):
            raise _garbage("its ETag has characters that no version has")
        return self

    def document(self) -> dict[str, Any]:
        """Read the body as a JSON object.

        Raises:
            SkragentError: client.garbage
        """
        try:
            document = json.loads(self.body)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise _garbage("it is no JSON object")
        return document

    def names(self, member: str) -> list[str]:
        """Read a list of names out of the body.

        Raises:
            SkragentError: client.garbage
        """
        names = self.document().get(member)
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise _garbage(f"it has no list `{member}`")
        return names

    def _problem(self) -> SkragentError:
        """Read an RFC 9457 problem document, whatever JSON is in its members."""
        try:
            document = self.document()
        except SkragentError:
            document = {}
        code, detail = document.get("code"), document.get("detail")
        if not (isinstance(code, str) and _is_code(code) and isinstance(detail, str)):
            return _garbage(f"it is status {self.status} without a problem document")
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
    """What is asked, and what may be answered; the same for both clients.

    Raises:
        ValueError: `wait` is no time that the agent would hold a request for.
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
        # What it may take beyond the client's own timeout.
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


def exchange(path: str, request: Request, timeout: float) -> Answer:
    """Send one request to a socket, and read its answer.

    Args:
        path: of the socket.
        request: what is asked.
        timeout: seconds for all of it, a wait not counted.

    Raises:
        SkragentError: with what the agent says, or client.*.
    """
    answer, seconds = Answer(), timeout + request.may_take
    deadline = time.monotonic() + seconds
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            connection.connect(path)
            try:  # noqa: SIM105 - contextlib would be one import more
                connection.sendall(request.raw)
            except (BrokenPipeError, ConnectionResetError):
                pass  # it may have refused us before it read: that is its answer
            _read(connection, answer, deadline)
    except TimeoutError as error:
        raise no_answer(path, seconds) from error
    except OSError as error:
        raise unreachable(path, error) from error
    return answer.judged(request)


def _read(connection: socket.socket, answer: Answer, deadline: float) -> None:
    is_complete = False
    while not is_complete:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        is_complete = answer.feed(connection.recv(READ_BYTES))


def key_target(name: str, version: str | None = None, suffix: str = "") -> str:
    """Write the path of a key."""
    query = "" if version is None else f"?version={_quote(version)}"
    return f"/v1/keys/{_quote(name)}{suffix}{query}"


def media_type(form: str) -> str:
    """Return what to ask for; a form that nobody knows is the caller's bug."""
    if form not in FORMS:
        raise ValueError(f"form is one of {', '.join(FORMS)}, not {form!r}")
    return FORMS[form]


def text_of(answer: Answer) -> str:
    """Read a body that is ASCII, as PEM is.

    Raises:
        SkragentError: client.garbage
    """
    try:
        return answer.body.decode("ascii")
    except UnicodeDecodeError:
        raise _garbage("it is no text") from None


def keys_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Take the list of keys out of a document; each has a name and a state.

    Raises:
        SkragentError: client.garbage
    """
    keys = document.get("keys")
    if not isinstance(keys, list) or not all(map(_is_key, keys)):
        raise _garbage("it lists no keys")
    return keys


def _is_key(key: object) -> bool:
    return isinstance(key, dict) and all(
        isinstance(key.get(member), str) for member in ("name", "state")
    )


def check_timeout(timeout: float) -> float:
    """Refuse a timeout that would be none."""
    if not timeout > 0:
        raise ValueError(f"timeout is more than 0 seconds, not {timeout!r}")
    return timeout


def watch_request(name: str, form: str, version: str) -> Request:
    """Ask for a version that is not this one."""
    accept = media_type(form)
    return Request(key_target(name), accept, wait=_WATCH_SECONDS, known=version)


def pause_after(error: SkragentError) -> float:
    """Choose how long to wait before the next attempt; raise what time cannot mend."""
    if not error.is_temporary:
        raise error
    seconds = 1.0 if error.retry_after is None else error.retry_after
    return min(max(seconds, _LEAST_PAUSE_SECONDS), _MOST_PAUSE_SECONDS)


def _quote(text: str) -> str:
    """Percent-encode all but unreserved characters (RFC 3986 §2.3)."""
    return "".join(
        chr(byte) if byte in _UNRESERVED else f"%{byte:02X}"
        # Python's words for bytes of the command line that are no text, too.
        for byte in text.encode(errors="surrogatepass")
    )


def _parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    status_line, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = status_line.partition(" ")
    status = rest[:3]
    if version != "HTTP/1.1" or not (status.isascii() and status.isdigit()):
        raise _garbage("it is not HTTP/1.1")
    pairs = (line.partition(":") for line in lines)
    return int(status), {name.lower(): value.strip() for name, _, value in pairs}


def _is_code(text: str) -> bool:
    is_short = 0 < len(text) <= _MAX_CODE_CHARACTERS
    return is_short and all(c in _CODE_CHARACTERS for c in text)


def _is_tag(text: str) -> bool:
    return text.isascii() and text.isprintable() and '"' not in text


def _one_line(text: str, max_characters: int) -> str:
    """Make another program's text fit for a terminal and a log."""
    return "".join(c if c.isprintable() else "?" for c in text[:max_characters])


def _number(text: str) -> float:
    return float(text) if text.isascii() and text.isdigit() else 0.0


def no_answer(path: str, seconds: float) -> SkragentError:
    """Say that the agent did not answer in time."""
    return SkragentError("client.timeout", 0, f"{path}: no answer in {seconds:g} s")


def unreachable(path: str, error: OSError) -> SkragentError:
    """Say that the agent is not there, or not for us."""
    is_forbidden = isinstance(error, PermissionError)
    code = "client.forbidden" if is_forbidden else "client.unreachable"
    why = error.strerror or str(error)
    if isinstance(error, ConnectionRefusedError) and not _is_socket(path):
        why = "is no socket"
    return SkragentError(code, 0, f"{path}: {why}")


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)  # noqa: PTH116 - pathlib costs an import
    except OSError:
        return True  # it is gone by now


def _garbage(what: str) -> SkragentError:
    return SkragentError(
        "client.garbage", 0, f"the agent's answer cannot be used: {what}"
    )
