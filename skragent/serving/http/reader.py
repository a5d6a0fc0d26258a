"""The requests in the bytes that a connection has received. Pure."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

from skragent.serving.http.chunked import ChunkedBody
from skragent.serving.http.interfaces import HttpError
from skragent.serving.http.request import END_OF_HEAD, check_unfinished, parse_head

if TYPE_CHECKING:
    from skragent.serving.http.interfaces import HttpLimits
    from skragent.serving.http.request import Request


class Received(NamedTuple):
    """A request.

    Attributes:
        request: with its body.
        raw: all bytes; empty if the request has a body, because then the response is
            not cached.
        size: the number of bytes.
        is_expecting: the body is missing. The client may wait for a 100 (Continue).
    """

    request: Request
    raw: bytes
    size: int
    is_expecting: bool = False


class RequestReader:
    """The bytes of one connection. The connection stops adding if it `is_full`."""

    __slots__ = ("_chunks", "_data", "_head_bytes", "_limits", "_pending")

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        self._data = bytearray()
        self._pending: Request | None = None  # a request whose body is missing
        self._head_bytes = 0  # of that request
        self._chunks: ChunkedBody | None = None  # its body, if it is chunked

    def __bool__(self) -> bool:
        return bool(self._data) or self._pending is not None

    def __len__(self) -> int:
        taken = 0 if self._chunks is None else len(self._chunks.body)
        return len(self._data) + taken

    @property
    def awaits_body(self) -> bool:
        """Return whether the body of a request is missing."""
        return self._pending is not None

    @property
    def has_body_begun(self) -> bool:
        """Return whether a part of the missing body has arrived."""
        return bool(self._data)

    @property
    def is_head(self) -> bool:
        """Return whether the next request has the method HEAD."""
        if self._pending is not None:
            return self._pending.method == "HEAD"
        return self._data.startswith(b"HEAD ")

    @property
    def is_full(self) -> bool:
        """Return whether the reader holds more than one request can have."""
        return len(self._data) > self._limits.head_bytes + self._limits.body_bytes

    def add(self, data: bytes | bytearray) -> None:
        """Add bytes that have arrived."""
        self._data += data

    def clear(self) -> None:
        """Drop all bytes."""
        self._data.clear()
        self._pending = self._chunks = None

    def next(self) -> Received | None:
        """Return the next request, or None if it is not complete.

        A request with `Expect: 100-continue` is returned twice: without its body as
        soon as the head is complete, and with its body.

        Raises:
            HttpError: the bytes are not a request. The connection must close, because
                the begin of the next request is unknown.
        """
        if self._pending is not None:
            return self._with_body(self._pending)
        data, max_bytes = self._data, self._limits.head_bytes
        while data.startswith(b"\r\n"):  # RFC 9112 §2.2: ignore an empty line
            del data[:2]
        if not data:
            return None
        end = data.find(END_OF_HEAD, 0, max_bytes)
        if end < 0:
            check_unfinished(data, max_bytes=max_bytes)
            return None
        size = end + len(END_OF_HEAD)
        raw = bytes(data[:size])
        request = parse_head(raw)
        if not request.has_body:
            del data[:size]
            return Received(request, raw, size)
        self._check_body_size(request.body_bytes)
        del data[:size]
        self._pending, self._head_bytes = request, size
        if request.is_chunked:
            # The framing of a chunked body has the limit of a head.
            self._chunks = ChunkedBody(self._limits.body_bytes, max_bytes)
        if request.expects_continue:
            return Received(request, b"", size, is_expecting=True)
        return self._with_body(request)

    def _with_body(self, request: Request) -> Received | None:
        data, chunks, size = self._data, self._chunks, self._head_bytes
        if chunks is not None:
            if not chunks.take(data):
                return None
            body = bytes(chunks.body)
            size += chunks.size
        else:
            if len(data) < request.body_bytes:
                return None
            body = bytes(data[: request.body_bytes])
            del data[: request.body_bytes]
            size += len(body)
        self._pending = self._chunks = None
        return Received(request.with_body(body), b"", size)

    def _check_body_size(self, size: int) -> None:
        if size > self._limits.body_bytes:
            raise HttpError(
                f"the body is longer than {self._limits.body_bytes} bytes",
                code="serve.body",
                status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            )
