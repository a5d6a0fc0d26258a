"""What a connection sent and was not answered yet: bytes in, requests out. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from skragent.errors import RequestError
from skragent.serving.request import END_OF_HEAD, parse_head, refuse_unfinished

if TYPE_CHECKING:
    from skragent.serving.limits import Limits
    from skragent.serving.request import Request

CONTENT_TOO_LARGE: Final = 413


class Received(NamedTuple):
    """A request, and all of its bytes."""

    request: Request
    raw: bytes


class Inbox:
    """The bytes of one connection, bounded by whoever adds to it (`is_full`)."""

    __slots__ = ("_data", "_limits")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._data = bytearray()

    def __bool__(self) -> bool:
        return bool(self._data)

    def __len__(self) -> int:
        return len(self._data)

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

    def next(self) -> Received | None:
        """Take the next request out; None where it is not complete.

        Raises:
            RequestError: it cannot become one any more; nobody knows where the next
                one would begin.
        """
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
        request = parse_head(bytes(data[:size]))
        if request.body_bytes:
            self._refuse_too_large(request.body_bytes)
            size += request.body_bytes
            if len(data) < size:
                return None
            request = request.with_body(bytes(data[size - request.body_bytes : size]))
        raw = bytes(data[:size])
        del data[:size]
        return Received(request, raw)

    def _refuse_too_large(self, size: int) -> None:
        if size > self._limits.body_bytes:
            raise RequestError(
                f"the body is longer than {self._limits.body_bytes} bytes",
                code="serve.body",
                status=CONTENT_TOO_LARGE,
            )
