"""A response: its bytes, ready to be sent, and its counter.

The head is rendered once. The body may be a view of secret memory, so it is never
copied or joined with other bytes. The same response can be sent many times, until it
is invalidated.
"""

from __future__ import annotations

import copy
import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple, Protocol

import msgspec
from msgspec import Meta

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from skragent.serving.http.interfaces import Counter

PROBLEM_JSON: Final = "application/problem+json"
JSON: Final = "application/json"

_TEMPORARY: Final = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_CLOSE: Final = b"Connection: close\r\n\r\n"
# The limits bound the memory that each user can use.
_MAX_CACHED: Final = 256
_MAX_CACHED_BYTES: Final = 1024  # of a request


class HttpError(Protocol):
    """An error that becomes a problem document."""

    code: str
    message: str

    @property
    def status(self) -> int:
        """Return the HTTP status."""
        ...


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """A problem document: RFC 9457."""

    title: str
    status: int
    code: Annotated[
        str,
        Meta(
            pattern="^[a-z_.]+$",
            description="The stable error code, for programs.",
        ),
    ]
    detail: Annotated[str, Meta(description="One sentence for people.")]


class Response:
    """The response to a request.

    Attributes:
        parts: head and body; empty after `invalidate`.
        size: the bytes of all parts.
        last_parts: the same with `Connection: close`.
        last_size: the bytes of these.
        counter: counts how often the response was sent.
        is_cacheable: the same request of the same caller gets the same response until
            the response is invalidated.
    """

    __slots__ = ("counter", "is_cacheable", "last_parts", "last_size", "parts", "size")

    def __init__(
        self,
        status: HTTPStatus,
        headers: Mapping[str, str],
        body: bytes | memoryview = b"",
        *,
        counter: Counter,
        is_cacheable: bool = False,
    ) -> None:
        head = render_head(status, headers, len(body))
        rest = (body,) if body else ()
        self.parts: tuple[bytes | memoryview, ...] = (head, *rest)
        self.size = len(head) + len(body)
        last_head = head[:-2] + _CLOSE
        self.last_parts: tuple[bytes | memoryview, ...] = (last_head, *rest)
        self.last_size = len(last_head) + len(body)
        self.counter = counter
        self.is_cacheable = is_cacheable

    def without_body(self) -> Response:
        """Return the response to the same request with HEAD: RFC 9110 §9.3.2."""
        response = copy.copy(self)
        response.is_cacheable = False
        response.parts, response.last_parts = self.parts[:1], self.last_parts[:1]
        response.size = sum(map(len, response.parts))
        response.last_size = sum(map(len, response.last_parts))
        return response

    def invalidate(self) -> None:
        """Drop the bytes, so that no caller gets this response any more."""
        self.parts = self.last_parts = ()


class CachedResponse(NamedTuple):
    """A response in the cache, and whether the connection stays open after it."""

    response: Response
    keep_alive: bool


class ResponseCache:
    """Responses of the current second to one user, by caller and request.

    The processes of a user may differ in groups and units, so they are several callers.
    Each user has a cache, so that no user can fill the cache of another user.

    A response in the cache needs no parser, no access decision and no quota
    arithmetic. Measured beside nginx (`make bench`): without the cache an open
    connection costs four times the CPU, and a new connection twice.
    """

    __slots__ = ("_responses", "get")

    def __init__(self) -> None:
        self._responses: dict[tuple[Hashable, bytes], CachedResponse] = {}
        self.get: Callable[[tuple[Hashable, bytes]], CachedResponse | None] = (
            self._responses.get
        )

    def __len__(self) -> int:
        return len(self._responses)

    def put(
        self,
        identity: Hashable,
        request: bytes,
        response: Response,
        *,
        keep_alive: bool,
    ) -> None:
        """Store a response. A full cache stores nothing until the next second."""
        if len(self._responses) < _MAX_CACHED and len(request) <= _MAX_CACHED_BYTES:
            self._responses[identity, request] = CachedResponse(response, keep_alive)

    def clear(self) -> None:
        """Begin a new second."""
        self._responses.clear()


def render_head(status: HTTPStatus, headers: Mapping[str, str], length: int) -> bytes:
    """Render the status line and the headers.

    There is no Date header: both ends of a Unix socket have the same clock.
    """
    lines = [f"HTTP/1.1 {status.value} {status.phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if status is not HTTPStatus.NOT_MODIFIED:  # RFC 9110 §15.4.5
        lines.append(f"Content-Length: {length}")
    return "\r\n".join([*lines, "\r\n"]).encode("latin-1")


def json_response(
    value: object,
    *,
    counter: Counter,
    status: HTTPStatus = HTTPStatus.OK,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return a JSON document that caches must not store.

    Args:
        value: a structure of msgspec, or a value that JSON has.
        counter: counts the response.
        status: the status of the response.
        headers: more headers.
    """
    return Response(
        status,
        {"Content-Type": JSON, "Cache-Control": "no-store", **(headers or {})},
        to_json(value),
        counter=counter,
    )


def to_json(value: object) -> bytes:
    """Encode a structure of msgspec, or a value that JSON has."""
    return json.dumps(msgspec.to_builtins(value)).encode()


def problem_response(
    error: HttpError,
    *,
    counter: Counter,
    headers: Mapping[str, str] | None = None,
    kind: type[Problem] = Problem,
    **members: Any,  # noqa: ANN401 - each kind has members of its own
) -> Response:
    """Return a problem document; programs read its `code`.

    Temporary errors have a Retry-After of one second, unless `headers` has another.

    Args:
        error: becomes the document.
        counter: counts the response.
        headers: more headers.
        kind: the structure of the document.
        members: the members that `kind` has in addition to those of Problem.
    """
    status = HTTPStatus(error.status)
    temporary = {"Retry-After": "1"} if status in _TEMPORARY else {}
    document = kind(
        title=status.phrase,
        status=status.value,
        code=error.code,
        detail=error.message,
        **members,
    )
    return Response(
        status,
        {
            "Content-Type": PROBLEM_JSON,
            "Cache-Control": "no-store",
            **temporary,
            **(headers or {}),
        },
        to_json(document),
        counter=counter,
    )


def skip_bytes(
    parts: Sequence[bytes | memoryview], count: int
) -> list[bytes | memoryview]:
    """Return views of the bytes after the first `count`, without a copy."""
    rest: list[bytes | memoryview] = []
    for part in parts:
        if count >= len(part):
            count -= len(part)
        else:
            rest.append(memoryview(part)[count:])
            count = 0
    return rest
