"""What a connection sent and was not answered yet: bytes in, requests out. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from skragent.errors import RequestError
from skragent.serving.http.chunked import CONTENT_TOO_LARGE, ChunkedBody
from skragent.serving.http.request import END_OF_HEAD, parse_head, refuse_unfinished

if TYPE_CHECKING:
    from skragent.serving.http.request import Request
    from skragent.serving.limits import Limits


class Received(NamedTuple):
    """A request.

    Attributes:
        request: with its body.
        raw: all of its bytes; empty if it has a body, for it is not remembered then.
        size: how many bytes it had.
        is_expecting: it has no body yet: its client may wait for 100 or a refusal.
    """

    request: Request
    raw: bytes
    size: int
    is_expecting: bool = False


class RequestReader:
    """The bytes of one connection, bounded by whoever adds to it (`is_full`)."""

    __slots__ = ("_chunks", "_data", "_head_bytes", "_limits", "_pending")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._data = bytearray()
        self._pending: Request | None = None  # its body is not there yet
        self._head_bytes = 0  # of that request
        self._chunks: ChunkedBody | None = None  # its body, if it is chunked

    def __bool__(self) -> bool:
        return bool(self._data) or self._pending is not None

    def __len__(self) -> int:
        taken = 0 if self._chunks is None else len(self._chunks.body)
        return len(self._data) + taken

    @property
    def awaits_body(self) -> bool:
        """Return whether a request is there whose body is not."""
        return self._pending is not None

    @property
    def has_body_begun(self) -> bool:
        """Return whether anything of the body is there that is waited for."""
        return bool(self._data)

    @property
    def is_head(self) -> bool:
        """Return whether the next response has no body, whatever it is."""
        if self._pending is not None:
            return self._pending.method == "HEAD"
        return self._data.startswith(b"HEAD ")

    @property
    def is_full(self) -> bool:
        """Tell whether no more may be added before something is taken."""
        return len(self._data) > self._limits.head_bytes + self._limits.body_bytes

    def add(self, data: bytes | bytearray) -> None:
        """Take in what was read."""
        self._data += data

    def clear(self) -> None:
        """Forget what is not answered."""
        self._data.clear()
        self._pending = self._chunks = None

    def next(self) -> Received | None:
        """Take the next request out; None where it is not complete.

        One that expects a word before its body comes twice: without its body, as soon
        as its head is there, and with it.

        Raises:
            RequestError: it cannot become one any more; nobody knows where the next
                one would begin.
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
            refuse_unfinished(data, max_bytes=max_bytes)
            return None
        size = end + len(END_OF_HEAD)
        raw = bytes(data[:size])
        request = parse_head(raw)
        if not request.has_body:
            del data[:size]
            return Received(request, raw, size)
        self._refuse_too_large(request.body_bytes)
        del data[:size]
        self._pending, self._head_bytes = request, size
        if request.is_chunked:
            # The framing of a chunked body has the bound of a head.
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

    def _refuse_too_large(self, size: int) -> None:
        if size > self._limits.body_bytes:
            raise RequestError(
                f"the body is longer than {self._limits.body_bytes} bytes",
                code="serve.body",
                status=CONTENT_TOO_LARGE,
            )
