"""The head of an HTTP/1.x request: bytes -> `Request`, or a refusal.

Pure and total. llhttp (httptools) does the grammar of RFC 9112, strictly; what it
leaves open and what we do not do is refused here: other versions, transfer codings
other than chunked, expectations other than 100-continue, a missing or second Host.

HTTP/1.0 is what nginx's proxy_pass and many probes speak. Such a request needs no Host,
has no transfer coding, gets no 1xx response, and its connection is closed after the
response: the `keep-alive` option of RFC 9112 appendix C.2.2 is not supported.

Not here: where one head ends and the next begins (`inbox`), and chunks (`chunked`).
"""

from __future__ import annotations

import dataclasses
import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import httptools

from skragent.errors import RequestError
from skragent.serving.limits import MAX_HEADERS

if TYPE_CHECKING:
    from collections.abc import Mapping

END_OF_HEAD: Final = b"\r\n\r\n"

# Clients of one kind send the same bytes each time, so heads are parsed once. Longer
# ones are not remembered: 512 of these are what a stranger can make us keep.
_REMEMBERED: Final = 512
_REMEMBERED_BYTES: Final = 1024

HTTP_VERSION_NOT_SUPPORTED: Final = 505
NOT_IMPLEMENTED: Final = 501
EXPECTATION_FAILED: Final = 417
HEAD_TOO_LARGE: Final = 431

# RFC 9112 §3.2.2: a server must understand it. Which host it names says nothing here.
_ABSOLUTE: Final = re.compile(r"\Ahttp://[^/?#]*(?=/)", re.IGNORECASE)
_LENGTH: Final = re.compile(rb"[0-9]{1,9}")

_HTTP_1_0: Final = "1.0"
_HTTP_1_1: Final = "1.1"


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked."""

    method: str
    path: str  # as sent; starts with a slash
    query: str  # as sent, without the question mark
    headers: Mapping[str, str]  # names in lower case
    keep_alive: bool
    body_bytes: int = 0  # Content-Length, or what a chunked body turned out to have
    body: bytes = b""  # empty until all of it is there
    is_chunked: bool = False  # and the size of its body is not known yet
    expects_continue: bool = False  # the client may wait for a 100 before its body

    @property
    def has_body(self) -> bool:
        """Return whether a body belongs to the request, also one that is not read."""
        return self.body_bytes > 0 or self.is_chunked

    def with_body(self, body: bytes) -> Request:
        """Return the same request with its body."""
        return dataclasses.replace(
            self, body=body, body_bytes=len(body), is_chunked=False
        )

    def as_last(self) -> Request:
        """Return the same request, as the last one of its connection."""
        return dataclasses.replace(self, keep_alive=False)


def parse_head(head: bytes) -> Request:
    """Read one whole head, its empty line included.

    Raises:
        RequestError: and the connection must be closed, for nobody knows where the
            next request would begin.
    """
    if len(head) <= _REMEMBERED_BYTES:
        return _parse_remembered(head)
    return _parse(head)


def refuse_unfinished(part: bytes | bytearray, *, max_bytes: int) -> None:
    """Refuse what cannot become a request any more, so that nobody waits for it."""
    if len(part) >= max_bytes:
        raise RequestError(
            f"the head is longer than {max_bytes} bytes",
            code="serve.head_too_large",
            status=HEAD_TOO_LARGE,
        )
    if part.count(b"\n") != part.count(b"\r\n"):
        raise RequestError("a line ends without a carriage return")
    if not part[:1].isalpha() and part != b"\r":  # the half of an empty line
        raise RequestError("this is not HTTP")


class _Head:
    """One head, as the parser's callbacks fill it in."""

    def __init__(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.keep_alive = False
        self.is_complete = False

    def on_url(self, part: bytes) -> None:
        self.target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        # RFC 9112 §5.1: whitespace around a value does not belong to it.
        self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self.keep_alive = self.parser.should_keep_alive()
        self.is_complete = True


def _parse(head: bytes) -> Request:
    if head.startswith(b"PRI * HTTP/2"):  # RFC 9113 §3.4
        raise _other_version()
    found = _Head()
    try:
        found.parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass  # RFC 9110 §7.8: a server may ignore it. CONNECT is refused by its method.
    except httptools.HttpParserError as error:
        if found.is_complete:  # the coding of a body is looked at after the headers
            _refuse_codings(found.headers)
        raise RequestError(f"this is no HTTP/1.x request: {error}") from error
    except (ValueError, TypeError, BufferError, SystemError) as error:
        # The library's boundary: what its wrapper and the callbacks could raise.
        raise RequestError("this is no HTTP/1.x request") from error
    if not found.is_complete:
        raise RequestError("this is no HTTP/1.x request")
    version = found.parser.get_http_version()
    if version not in (_HTTP_1_0, _HTTP_1_1):
        raise _other_version()
    _refuse_headers(found.headers, version)
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


_parse_remembered = functools.lru_cache(_REMEMBERED)(_parse)


def _refuse_headers(headers: list[tuple[bytes, bytes]], version: str) -> None:
    if len(headers) > MAX_HEADERS:
        raise RequestError(
            f"there are more than {MAX_HEADERS} headers",
            code="serve.head_too_large",
            status=HEAD_TOO_LARGE,
        )
    names = [name for name, _ in headers]
    hosts = names.count(b"host")
    if hosts != 1 and not (version == _HTTP_1_0 and hosts == 0):  # RFC 9112 §3.2
        raise RequestError("there must be exactly one Host header")
    if b"transfer-encoding" in names and version == _HTTP_1_0:  # RFC 9112 §6.1
        raise RequestError("an HTTP/1.0 request must not have a Transfer-Encoding")
    _refuse_codings(headers)  # that there is no Content-Length as well, llhttp saw to
    lengths = [value for name, value in headers if name == b"content-length"]
    if lengths and not (len(lengths) == 1 and _LENGTH.fullmatch(lengths[0])):
        raise RequestError("there must be at most one Content-Length, a number")
    expectations = [value.lower() for name, value in headers if name == b"expect"]
    if expectations not in ([], [b"100-continue"]):  # RFC 9110 §10.1.1
        raise RequestError(
            "the only supported expectation is 100-continue",
            code="serve.body",
            status=EXPECTATION_FAILED,
        )


def _refuse_codings(headers: list[tuple[bytes, bytes]]) -> None:
    """Refuse what is not exactly `chunked`: RFC 9112 §6.1."""
    codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    if codings not in ([], [b"chunked"]):
        raise RequestError(
            "the only supported transfer coding is chunked",
            code="serve.body",
            status=NOT_IMPLEMENTED,
        )


def _other_version() -> RequestError:
    return RequestError(
        "the version of HTTP must be 1.0 or 1.1",
        code="serve.http_version",
        status=HTTP_VERSION_NOT_SUPPORTED,
    )
