"""Open a TCP connection within an exchange's time: resolution and Happy Eyeballs.

getaddrinfo(3) has no timeout, so it runs in a thread that is abandoned when time is up.
Of several addresses, the next is tried a quarter of a second after the previous attempt
began, or as soon as that attempt failed (RFC 8305, section 5). So an address whose
packets are dropped, such as IPv6 without a route, does not use up the time.
"""

from __future__ import annotations

import errno
import itertools
import os
import queue
import selectors
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Final, cast

from skragent.transport.exchange import BoundedSocket, Exchange

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

# RFC 8305, section 8: Connection Attempt Delay.
ATTEMPT_DELAY_SECONDS: Final = 0.25

# family, type, protocol, address: an entry of getaddrinfo without the canonical name.
Address = tuple[int, int, int, Any]


def connect(
    host: str,
    port: int,
    exchange: Exchange,
    options: Iterable[tuple[int, int, int | bytes]] = (),
) -> BoundedSocket:
    """Connect to the first address of a host that accepts the connection.

    Args:
        host: a name or an address.
        port: the TCP port.
        exchange: its time limits the call.
        options: for setsockopt.

    Raises:
        socket.gaierror: the name has no address.
        TimeoutError: the exchange's time is over.
        OSError: no address accepted it; the error is that of the first address.
    """
    addresses = interleave(resolve(host, port, exchange))
    return connect_to_first(addresses, exchange, options)


def connect_to_first(
    addresses: Sequence[Address],
    exchange: Exchange,
    options: Iterable[tuple[int, int, int | bytes]] = (),
) -> BoundedSocket:
    """Connect to the first of these addresses that accepts the connection.

    Raises:
        TimeoutError: the exchange's time is over.
        OSError: no address accepted it; the error is that of the first address.
    """
    return _Race(addresses, exchange, tuple(options)).run()


def resolve(
    host: str,
    port: int,
    exchange: Exchange,
    look_up: Callable[..., list[Any]] = socket.getaddrinfo,
) -> list[Address]:
    """Resolve a name within the exchange's time.

    Args:
        host: a name or an address.
        port: the TCP port.
        exchange: its time limits the call.
        look_up: getaddrinfo, or a substitute.

    Raises:
        socket.gaierror, UnicodeError: the name has no address, or cannot have one.
        TimeoutError: the exchange's time is over.
    """
    outcomes: queue.SimpleQueue[list[Address] | BaseException] = queue.SimpleQueue()

    def look_up_in_thread() -> None:
        try:
            found = look_up(host, port, type=socket.SOCK_STREAM)
            outcomes.put([(f, t, p, address) for f, t, p, _, address in found])
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            outcomes.put(error)

    threading.Thread(target=look_up_in_thread, name="resolve", daemon=True).start()
    try:
        outcome = outcomes.get(timeout=exchange.seconds_left())
    except queue.Empty:
        raise TimeoutError(f"{host} was not resolved in time") from None
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def interleave(addresses: Sequence[Address]) -> list[Address]:
    """Order addresses so that their families alternate (RFC 8305, section 4)."""
    families = dict.fromkeys(family for family, *_ in addresses)
    columns = [[a for a in addresses if a[0] == family] for family in families]
    rows = itertools.zip_longest(*columns)
    return [address for row in rows for address in row if address is not None]


class _Race:
    """Attempts to connect, each begun a little later than the previous one."""

    def __init__(
        self,
        addresses: Sequence[Address],
        exchange: Exchange,
        options: tuple[tuple[int, int, int | bytes], ...],
    ) -> None:
        self._waiting = list(addresses)
        self._exchange = exchange
        self._options = options
        self._first_error: OSError | None = None
        self._selector = selectors.DefaultSelector()

    def run(self) -> BoundedSocket:
        """Return the first established connection; close the others."""
        winner = None
        try:
            winner = self._run()
        finally:
            for key in list(self._selector.get_map().values()):
                if key.fileobj is not winner:
                    cast("BoundedSocket", key.fileobj).close()
            self._selector.close()
        return winner

    def _run(self) -> BoundedSocket:
        next_at = time.monotonic()
        while self._waiting or self._selector.get_map():
            now = time.monotonic()
            if self._waiting and (now >= next_at or not self._selector.get_map()):
                self._begin(self._waiting.pop(0))
                next_at = now + ATTEMPT_DELAY_SECONDS
            left = self._exchange.seconds_left()
            if self._waiting:
                left = min(left, max(0.0, next_at - time.monotonic()))
            for sock in self._ended(left):
                number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if number == 0:
                    sock.settimeout(self._exchange.seconds_left())
                    return sock
                self._selector.unregister(sock)
                sock.close()
                self._fail(OSError(number, os.strerror(number)))
                next_at = time.monotonic()
        raise self._first_error or OSError(errno.EADDRNOTAVAIL, "no address")

    def _begin(self, address: Address) -> None:
        family, kind, protocol, where = address
        try:
            sock = BoundedSocket(family, kind, protocol)
        except OSError as error:  # this machine lacks the address family
            self._fail(error)
            return
        try:
            for option in self._options:
                sock.setsockopt(*option)
            sock.settimeout(0)
            number = sock.connect_ex(where)
        except OSError as error:
            number = error.errno or errno.EINVAL
        if number in (0, errno.EINPROGRESS):
            self._selector.register(sock, selectors.EVENT_WRITE)
            return
        sock.close()
        self._fail(OSError(number, os.strerror(number)))

    def _ended(self, seconds: float) -> list[BoundedSocket]:
        """Wait for attempts that succeed or fail."""
        if not self._selector.get_map():
            return []
        return [
            cast("BoundedSocket", k.fileobj) for k, _ in self._selector.select(seconds)
        ]

    def _fail(self, error: OSError) -> None:
        self._first_error = self._first_error or error
