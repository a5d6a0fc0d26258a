"""One exchange: a request and its answer, with one deadline and one limit of bytes.

Timeouts of socket, http.client, urllib3 and requests count each wait for bytes anew: a
server that sends one byte at a time is never late. So the sockets here take their
timeout from the exchange that runs in their thread, at each call: name resolution,
connecting, the TLS handshake, a proxy's answer, status lines, headers, chunk sizes,
trailers and the body share the exchange's time, and all that is received counts against
its bytes.
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

# What status lines, headers, chunk sizes and trailers may add to a body.
FRAMING_BYTES: Final = 256 * 1024

_running: Final = threading.local()


class Exchange:
    """The bounds of one exchange.

    Args:
        where: the origin that is asked, for an error's message.
        seconds: from name resolution to the last byte.
        max_bytes: of the body.
    """

    def __init__(self, where: str, *, seconds: float, max_bytes: int) -> None:
        self.where = where
        self.max_bytes = max_bytes
        self._deadline = time.monotonic() + seconds
        self._bytes_left = max_bytes + FRAMING_BYTES

    def seconds_left(self) -> float:
        """Return the time that is left.

        Raises:
            TimeoutError: none is.
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the exchange took too long")
        return left

    def count(self, received: int) -> None:
        """Count bytes that were received.

        Raises:
            TransportError: transport.oversized
        """
        self._bytes_left -= received
        if self._bytes_left < 0:
            raise self.oversized()

    def oversized(self) -> TransportError:
        """Make the error of an answer with too many bytes."""
        return TransportError(
            f"{self.where} answered with more than {self.max_bytes} bytes",
            code="transport.oversized",
        )


def current_exchange() -> Exchange | None:
    """Return the exchange that runs in this thread."""
    return getattr(_running, "exchange", None)


@contextlib.contextmanager
def running(exchange: Exchange) -> Iterator[Exchange]:
    """Bound what this thread sends and receives; an outer exchange stays in force."""
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
    """What plain and TLS sockets have in common: bounds before and after each call."""

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
        """Receive into a buffer: what `makefile` does, and http.client reads from."""
        exchange = self._limit_time()
        count = super().recv_into(buffer, nbytes, flags)
        if exchange is not None:
            exchange.count(count)
        return count

    def sendall(self, data: Any, flags: int = 0, /) -> None:  # type: ignore[explicit-override] # noqa: ANN401 - any buffer
        """Send everything: the timeout is for all of it (socket.sendall)."""
        self._limit_time()
        super().sendall(data, flags)


class BoundedTlsSocket(_Bounded, ssl.SSLSocket):
    """A TLS socket that is bounded by its thread's exchange; see SSLContext."""

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # type: ignore[explicit-override] # noqa: A002, ANN401 - the overridden signature
        """Receive: `recv` and `recv_into` end here."""
        exchange = self._limit_time()
        result: Any = super().read(len, buffer)
        if exchange is not None:
            exchange.count(result if buffer is not None else result.__len__())
        return result

    def send(self, data: Any, flags: int = 0) -> int:  # type: ignore[explicit-override] # noqa: ANN401 - any buffer
        """Send a part: `sendall` ends here, once for each record."""
        self._limit_time()
        return super().send(data, flags)

    def do_handshake(self, block: bool = False) -> None:  # type: ignore[explicit-override] # noqa: FBT001, FBT002 - the overridden signature
        """Shake hands: the timeout is for all of it."""
        self._limit_time()
        super().do_handshake(block)
