"""Checks that the handlers of all HTTP sockets share: method, body, unknown path."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NoReturn

from skragent.errors import RequestError

if TYPE_CHECKING:
    from skragent.errors import ServeError
    from skragent.serving.http.request import Request
    from skragent.serving.peers import Peer

READ: Final = ("GET", "HEAD")  # RFC 9110 §9.3.2


def check_request(
    request: Request, methods: tuple[str, ...], *, accepts_body: bool = False
) -> None:
    """Check the method and the body of a request; no methods: any method.

    Raises:
        RequestError: serve.method or serve.body
    """
    if methods and request.method not in methods:
        raise RequestError(
            f"the method must be {' or '.join(methods)}",
            code="serve.method",
            status=HTTPStatus.METHOD_NOT_ALLOWED,
        )
    if request.has_body and not accepts_body:
        raise RequestError("this request must not have a body", code="serve.body")


def method_headers(error: ServeError, methods: tuple[str, ...]) -> dict[str, str]:
    """Return the Allow header for a wrong method: RFC 9110 §15.5.6."""
    if error.status != HTTPStatus.METHOD_NOT_ALLOWED:
        return {}
    return {"Allow": ", ".join(methods)}


def not_found(request: Request, peer: Peer) -> NoReturn:  # noqa: ARG001 - a handler's
    """Reject an unknown path."""
    raise RequestError(
        "there is no resource at this path",
        code="serve.not_found",
        status=HTTPStatus.NOT_FOUND,
    )
