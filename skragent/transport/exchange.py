"""One exchange: a request and its response, with one deadline and one limit of bytes.

Timeouts of socket, http.client, urllib3 and requests apply to each wait for bytes, so a
server that sends one byte at a time never exceeds them. The sockets here take their
timeout, at each call, from the exchange of their thread. Name resolution, connecting,
the TLS handshake, a proxy's response, status lines, headers, chunk sizes, trailers and
the body share the exchange's time, and every received byte counts.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from skragent.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Iterator

# Limit of status lines, headers, chunk sizes and trailers, in addition to the body.
FRAMING_BYTES: Final = 256 * 1024

_running: Final = threading.local()


class Exchange:
    """The limits of one exchange.

    Args:
        where: the origin, for messages.
        seconds: from name resolution to the last byte.
        max_bytes: the longest body.
    """

    def __init__(self, where: str, *, seconds: float, max_bytes: int) -> None:
        self.where = where
        self.max_bytes = max_bytes
        self._deadline = time.monotonic() + seconds
        self._bytes_left = max_bytes + FRAMING_BYTES

    def seconds_left(self) -> float:
        """Return the remaining seconds.

        Raises:
            TimeoutError: the time is over.
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the exchange took too long")
        return left

    def count(self, received: int) -> None:
        """Count received bytes.

        Raises:
            TransportError: transport.oversized
        """
        self._bytes_left -= received
        if self._bytes_left < 0:
            raise self.oversized()

    def oversized(self) -> TransportError:
        """Return the error of a response with too many bytes."""
        return TransportError(
            f"{self.where} answered with more than {self.max_bytes} bytes",
            code="transport.oversized",
        )


def current_exchange() -> Exchange | None:
    """Return the exchange of this thread."""
    return getattr(_running, "exchange", None)


@contextlib.contextmanager
def running(exchange: Exchange) -> Iterator[Exchange]:
    """Limit what this thread sends and receives; an outer exchange has priority."""
    outer = current_exchange()
    if outer is not None:
        yield outer
        return
    _running.exchange = exchange
    try:
        yield exchange
    finally:
        _running.exchange = None


class _Bounded:
    """The part that plain and TLS sockets share: limits for each call."""

    def _limit_time(self) -> Exchange | None:
        exchange = current_exchange()
        if exchange is not None:
            self.settimeout(exchange.seconds_left())  # type: ignore[attr-defined] # a socket's
        return exchange


# typing.override is Python 3.12's.
class BoundedSocket(_Bounded, socket.socket):
    """A TCP socket that is bounded by its thread's exchange."""

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:  # type: ignore[explicit-override]
        """Receive."""
        exchange = self._limit_time()
        data = super().recv(bufsize, flags)
        if exchange is not None:
            exchange.count(len(data))
        return data

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:  # type: ignore[explicit-override] # noqa: ANN401 - any buffer
        """Receive into a buffer; `makefile` and so http.client use this."""
        exchange = self._limit_time()
        count = super().recv_into(buffer, nbytes, flags)
        if exchange is not None:
            exchange.count(count)
        return count

    def sendall(self, data: Any, flags: int = 0, /) -> None:  # type: ignore[explicit-override] # noqa: ANN401 - any buffer
        """Send everything; the timeout applies to the whole (socket.sendall)."""
        self._limit_time()
        super().sendall(data, flags)


class BoundedTlsSocket(_Bounded, ssl.SSLSocket):
    """A TLS socket that is bounded by its thread's exchange; see SSLContext."""

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # type: ignore[explicit-override] # noqa: A002, ANN401 - the overridden signature
        """Receive; `recv` and `recv_into` call this."""
        exchange = self._limit_time()
        result: Any = super().read(len, buffer)
        if exchange is not None:
            exchange.count(result if buffer is not None else result.__len__())
        return result

    def send(self, data: Any, flags: int = 0) -> int:  # type: ignore[explicit-override] # noqa: ANN401 - any buffer
        """Send a part; `sendall` calls this for each record."""
        self._limit_time()
        return super().send(data, flags)

    def do_handshake(self, block: bool = False) -> None:  # type: ignore[explicit-override] # noqa: FBT001, FBT002 - the overridden signature
        """Perform the handshake; the timeout applies to the whole."""
        self._limit_time()
        super().do_handshake(block)
