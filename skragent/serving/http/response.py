"""An answer: its bytes, ready to be sent, and how it is counted.

The head is rendered once; the body may be a view of secret memory and is never copied
or joined with anything. An answer can be sent many times, until it is retired.
"""

from __future__ import annotations

import copy
import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from skragent.errors import ServeError
    from skragent.observe import Cell

PROBLEM_JSON: Final = "application/problem+json"
JSON: Final = "application/json"

_LATER: Final = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_CLOSE: Final = b"Connection: close\r\n\r\n"


class Response:
    """What is sent for a request.

    Attributes:
        parts: head and body; empty once the answer is retired.
        size: the bytes of all parts.
        last_parts: the same with word that the connection is closed after them.
        last_size: the bytes of these.
        cell: counts how often it was sent.
        is_lasting: the same request on the same connection gets the same answer,
            until it is retired.
    """

    __slots__ = ("cell", "is_lasting", "last_parts", "last_size", "parts", "size")

    def __init__(
        self,
        status: HTTPStatus,
        headers: Mapping[str, str],
        body: bytes | memoryview = b"",
        *,
        cell: Cell,
        is_lasting: bool = False,
    ) -> None:
        head = render_head(status, headers, len(body))
        rest = (body,) if body else ()
        self.parts: tuple[bytes | memoryview, ...] = (head, *rest)
        self.size = len(head) + len(body)
        last_head = head[:-2] + _CLOSE
        self.last_parts: tuple[bytes | memoryview, ...] = (last_head, *rest)
        self.last_size = len(last_head) + len(body)
        self.cell = cell
        self.is_lasting = is_lasting

    def without_body(self) -> Response:
        """Return what HEAD is answered with: RFC 9110 §9.3.2."""
        answer = copy.copy(self)
        answer.is_lasting = False
        answer.parts, answer.last_parts = self.parts[:1], self.last_parts[:1]
        answer.size = sum(map(len, answer.parts))
        answer.last_size = sum(map(len, answer.last_parts))
        return answer

    def retire(self) -> None:
        """Let go of the bytes: nobody gets this answer any more."""
        self.parts = self.last_parts = ()


def render_head(status: HTTPStatus, headers: Mapping[str, str], length: int) -> bytes:
    """Render the status line and the headers.

    There is no Date: who asks over a Unix socket has the same clock.
    """
    lines = [f"HTTP/1.1 {status.value} {status.phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if status is not HTTPStatus.NOT_MODIFIED:  # RFC 9110 §15.4.5
        lines.append(f"Content-Length: {length}")
    return "\r\n".join([*lines, "\r\n"]).encode("latin-1")


def json_response(
    value: object, *, cell: Cell, status: HTTPStatus = HTTPStatus.OK
) -> Response:
    """Answer with a JSON document that is not to be stored."""
    return Response(
        status,
        {"Content-Type": JSON, "Cache-Control": "no-store"},
        json.dumps(value).encode(),
        cell=cell,
    )


def problem_response(
    error: ServeError,
    *,
    cell: Cell,
    headers: Mapping[str, str] | None = None,
    **members: object,
) -> Response:
    """Answer with an RFC 9457 problem document: `code` is what programs look at.

    What may succeed later says when, and where nobody knows better, in a second.
    """
    status = HTTPStatus(error.status)
    later = {"Retry-After": "1"} if status in _LATER else {}
    document = {
        "title": status.phrase,
        "status": status.value,
        "code": error.code,
        "detail": error.message,
        **members,
    }
    return Response(
        status,
        {
            "Content-Type": PROBLEM_JSON,
            "Cache-Control": "no-store",
            **later,
            **(headers or {}),
        },
        json.dumps(document).encode(),
        cell=cell,
    )


def rest_of(parts: Sequence[bytes | memoryview], sent: int) -> list[bytes | memoryview]:
    """Return views of what comes after the first `sent` bytes; nothing is copied."""
    rest: list[bytes | memoryview] = []
    for part in parts:
        if sent >= len(part):
            sent -= len(part)
        else:
            rest.append(memoryview(part)[sent:])
            sent = 0
    return rest
