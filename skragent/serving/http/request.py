"""The head of an HTTP/1.x request: bytes to a `Request`, or an error.

Pure and total. llhttp (httptools) parses the grammar of RFC 9112 strictly. This module
rejects the cases that llhttp leaves open and those that skragent does not support:
other versions, transfer codings other than chunked, expectations other than
100-continue, a missing or second Host.

nginx's proxy_pass and many probes speak HTTP/1.0. Such a request needs no Host, has no
transfer coding and gets no 1xx response. Its connection closes after the response: the
`keep-alive` option of RFC 9112 appendix C.2.2 is not supported.

The module `reader` finds the end of a head, and `chunked` parses chunks.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import httptools

from skragent.serving.http.interfaces import HttpError

if TYPE_CHECKING:
    from collections.abc import Mapping

END_OF_HEAD: Final = b"\r\n\r\n"
MAX_HEADERS: Final = 64

# RFC 9112 §3.2.2: a server must accept the absolute form. It ignores the host.
_ABSOLUTE: Final = re.compile(r"\Ahttp://[^/?#]*(?=/)", re.IGNORECASE)
_LENGTH: Final = re.compile(rb"[0-9]{1,9}")

_HTTP_1_0: Final = "1.0"
_HTTP_1_1: Final = "1.1"


@dataclass(frozen=True, slots=True)
class Request:
    """A request."""

    method: str
    path: str  # as sent; starts with a slash
    query: str  # as sent, without the question mark
    headers: Mapping[str, str]  # names in lower case
    keep_alive: bool
    body_bytes: int = 0  # Content-Length, or the size of a complete chunked body
    body: bytes = b""  # empty until the body is complete
    is_chunked: bool = False  # the size of the body is not known yet
    expects_continue: bool = False  # the client may wait for a 100 before its body

    @property
    def has_body(self) -> bool:
        """Return whether the request has a body, even if no server reads it."""
        return self.body_bytes > 0 or self.is_chunked

    def with_body(self, body: bytes) -> Request:
        """Return the request with its body."""
        return dataclasses.replace(
            self, body=body, body_bytes=len(body), is_chunked=False
        )

    def as_last(self) -> Request:
        """Return the request as the last request of its connection."""
        return dataclasses.replace(self, keep_alive=False)


def parse_head(head: bytes) -> Request:
    """Parse one complete head with its empty line.

    Raises:
        HttpError: the connection must close, because the begin of the next request is
            unknown.
    """
    if head.startswith(b"PRI * HTTP/2"):  # RFC 9113 §3.4
        raise _unsupported_version()
    found = _Head()
    try:
        found.parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass  # RFC 9110 §7.8: a server may ignore Upgrade. Handlers reject CONNECT.
    except httptools.HttpParserError as error:
        if found.is_complete:  # llhttp checks the coding after the headers
            _check_codings(found.headers)
        raise HttpError(f"this is not an HTTP/1.x request: {error}") from error
    except (ValueError, TypeError, BufferError, SystemError) as error:
        # Errors of the wrapper and of the callbacks.
        raise HttpError("this is not an HTTP/1.x request") from error
    if not found.is_complete:
        raise HttpError("this is not an HTTP/1.x request")
    version = found.parser.get_http_version()
    if version not in (_HTTP_1_0, _HTTP_1_1):
        raise _unsupported_version()
    _check_headers(found.headers, version)
    target = found.target.decode("ascii", "replace")
    path, _, query = _ABSOLUTE.sub("", target).partition("?")
    headers: dict[str, str] = {}
    for raw_name, raw_value in found.headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Request(
        method=found.parser.get_method().decode("ascii", "replace"),
        path=path,
        query=query,
        headers=headers,
        keep_alive=found.keep_alive and version == _HTTP_1_1,
        body_bytes=int(headers.get("content-length", "0")),
        is_chunked="transfer-encoding" in headers,
        # RFC 9110 §10.1.1: an HTTP/1.0 client's expectation is ignored.
        expects_continue="expect" in headers and version == _HTTP_1_1,
    )


def check_unfinished(part: bytes | bytearray, *, max_bytes: int) -> None:
    """Check that the first bytes of a head can still become a head.

    Raises:
        HttpError: waiting for more bytes is useless.
    """
    if len(part) >= max_bytes:
        raise HttpError(
            f"the head is longer than {max_bytes} bytes",
            code="serve.head_too_large",
            status=HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        )
    if part.count(b"\n") != part.count(b"\r\n"):
        raise HttpError("a line ends without a carriage return")
    if not part[:1].isalpha() and part != b"\r":  # the first half of an empty line
        raise HttpError("the bytes are not HTTP")


class _Head:
    """One head. The callbacks of the parser fill it in."""

    def __init__(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.keep_alive = False
        self.is_complete = False

    def on_url(self, part: bytes) -> None:
        self.target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        # RFC 9112 §5.1: whitespace around a value is not a part of it.
        self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self.keep_alive = self.parser.should_keep_alive()
        self.is_complete = True


def _check_headers(headers: list[tuple[bytes, bytes]], version: str) -> None:
    if len(headers) > MAX_HEADERS:
        raise HttpError(
            f"there are more than {MAX_HEADERS} headers",
            code="serve.head_too_large",
            status=HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        )
    names = [name for name, _ in headers]
    hosts = names.count(b"host")
    if hosts != 1 and not (version == _HTTP_1_0 and hosts == 0):  # RFC 9112 §3.2
        raise HttpError("there must be exactly one Host header")
    if b"transfer-encoding" in names and version == _HTTP_1_0:  # RFC 9112 §6.1
        raise HttpError("an HTTP/1.0 request must not have a Transfer-Encoding")
    _check_codings(headers)  # llhttp rejects both with Content-Length
    lengths = [value for name, value in headers if name == b"content-length"]
    if lengths and not (len(lengths) == 1 and _LENGTH.fullmatch(lengths[0])):
        raise HttpError("there must be at most one Content-Length, a number")
    expectations = [value.lower() for name, value in headers if name == b"expect"]
    if expectations not in ([], [b"100-continue"]):  # RFC 9110 §10.1.1
        raise HttpError(
            "the only supported expectation is 100-continue",
            code="serve.body",
            status=HTTPStatus.EXPECTATION_FAILED,
        )


def _check_codings(headers: list[tuple[bytes, bytes]]) -> None:
    """Reject every coding but exactly `chunked`: RFC 9112 §6.1."""
    codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    if codings not in ([], [b"chunked"]):
        raise HttpError(
            "the only supported transfer coding is chunked",
            code="serve.body",
            status=HTTPStatus.NOT_IMPLEMENTED,
        )


def _unsupported_version() -> HttpError:
    return HttpError(
        "the version of HTTP must be 1.0 or 1.1",
        code="serve.http_version",
        status=HTTPStatus.HTTP_VERSION_NOT_SUPPORTED,
    )
