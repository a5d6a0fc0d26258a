"""Interfaces between an HTTP connection and the server that accepted it."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from skragent.serving.http.connection import Connection
    from skragent.serving.http.long_poll import LongPoll
    from skragent.serving.http.request import Request
    from skragent.serving.http.response import Response, ResponseCache


class HttpError(Exception):
    """A request that gets an error response.

    Attributes:
        message: the reason, for the caller.
        code: the stable error code, for programs.
        status: the HTTP status of the response.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "serve.bad_request",
        status: HTTPStatus = HTTPStatus.BAD_REQUEST,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.status = status


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Limits of one connection. The server counts seconds in whole ticks."""

    # From the method to the empty line. nginx accepts lines of 8 KiB.
    head_bytes: int = 8 * 1024
    body_bytes: int = 16 * 1024
    # From the first byte of a request to its last byte.
    head_timeout_seconds: int = 5
    # Between two requests. nginx: 75 s. Clients with connection pools expect a minute.
    idle_timeout_seconds: int = 75
    # From the first byte of a response to its last byte.
    send_timeout_seconds: int = 10


class Counter(Protocol):
    """A number that a metric shows."""

    value: int


class Quota(Protocol):
    """The share of one user."""

    left: int  # responses in this round of the fair queue
    responses: ResponseCache

    def charge_part(self, request_bytes: int) -> None:
        """Charge for a part of a request body."""
        ...


class Caller(Protocol):
    """The process that made a connection."""

    @property
    def identity(self) -> Hashable:
        """Return everything about the caller that a response may depend on."""
        ...

    @property
    def quota(self) -> Quota:
        """Return the quota of the caller's user."""
        ...


CallerT = TypeVar("CallerT", bound=Caller)


class Admission(Protocol[CallerT]):
    """Decisions about the next request of a connection."""

    is_busy: bool  # the limit of requests in flight is reached

    def defers(self, caller: CallerT) -> bool:
        """Return whether the caller's user gets another round within this second."""
        ...

    def resume_next_round(self, connection: Connection[CallerT]) -> None:
        """Resume a connection in the next round of the event loop."""
        ...

    def resume_next_tick(self, connection: Connection[CallerT]) -> None:
        """Resume a connection in the next second."""
        ...

    def count_in_flight(self, caller: CallerT, change: int) -> None:
        """Count responses that the peer has not read completely."""
        ...

    def count_long_polls(self, caller: CallerT, change: int) -> None:
        """Count long polls. They are in flight as well."""
        ...

    def remove(self, connection: Connection[CallerT]) -> None:
        """Count a closed connection no longer."""
        ...


class Server(Protocol[CallerT]):
    """The server that accepted a connection."""

    loop: EventLoop
    read_buffer: bytearray  # shared: a connection empties it before the next read
    tick: int  # seconds since the server started

    @property
    def limits(self) -> HttpLimits:
        """Return the limits of a connection."""
        ...

    @property
    def admission(self) -> Admission[CallerT]:
        """Return the decisions about requests."""
        ...

    def respond(
        self, request: Request, caller: CallerT, size: int
    ) -> Response | LongPoll:
        """Return the response to a request of `size` bytes, or a long poll.

        Raises:
            HttpError: the connection sends the error and closes.
        """
        ...

    def accepts_body(self, request: Request, caller: CallerT) -> bool:
        """Return whether the server reads the body of a request."""
        ...

    def error_response(self, error: HttpError) -> Response:
        """Return the response for an error."""
        ...

    def report_failure(self, error: Exception) -> None:
        """Report an unexpected error in the log."""
        ...


class EventLoop(Protocol):
    """The methods of an asyncio event loop that the servers use."""

    def add_reader(self, fd: int, callback: Callable[[], object]) -> object:
        """See asyncio."""
        ...

    def remove_reader(self, fd: int) -> object:
        """See asyncio."""
        ...

    def add_writer(self, fd: int, callback: Callable[[], object]) -> object:
        """See asyncio."""
        ...

    def remove_writer(self, fd: int) -> object:
        """See asyncio."""
        ...

    def call_soon(self, callback: Callable[[], object]) -> object:
        """See asyncio."""
        ...

    def call_soon_threadsafe(self, callback: Callable[[], object]) -> object:
        """See asyncio."""
        ...

    def call_later(self, delay: float, callback: Callable[[], object]) -> Any:  # noqa: ANN401 - a handle
        """See asyncio."""
        ...


class Socket(Protocol):
    """The methods of a socket that a connection uses."""

    def fileno(self) -> int:
        """Return the descriptor."""
        ...

    def recv_into(self, buffer: bytearray, nbytes: int = 0, flags: int = 0) -> int:
        """Read the bytes that have arrived."""
        ...

    def sendmsg(
        self,
        buffers: Sequence[bytes | memoryview],
        ancdata: Sequence[Any] = (),
        flags: int = 0,
    ) -> int:
        """Send as much as the socket accepts, and return the number of bytes."""
        ...

    def settimeout(self, value: float, /) -> None:
        """Make the socket non-blocking, with 0."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...
