"""The Azure SDK's transport, bounded, and able to stop after the challenge.

The SDK learns how to authenticate by an empty request that the vault answers with 401
(protocols/akv.md §4): TCP, TLS, challenge and access token before the first request
that says anything. None of that needs the attestation token, so it is done ahead: while
`is_warming`, the request that would carry the access token is not sent, and `WarmError`
unwinds through the SDK, which keeps connection, challenge and token for the next one.

Public extension points only: `transport=`, `session=` and `send`, and requests' hooks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import requests
import requests.utils
from azure.core.pipeline.transport import RequestsTransport

from skragent.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_ANSWER_BYTES = 1024 * 1024  # releases seen have 9 kB


class WarmError(Exception):
    """Everything ahead of the release is done. No AzureError: nothing catches it."""


class VaultTransport(RequestsTransport):  # type: ignore[misc]  # exported lazily: Any
    """One vault's connections; bounded in time and bytes, no redirects.

    Args:
        timeout_seconds: for connecting and for each wait for bytes.
        session: of `transport.HttpClient`: its connections, its TLS roots.
    """

    def __init__(self, timeout_seconds: float, session: requests.Session) -> None:
        session.hooks["response"].append(_bound_answer)
        super().__init__(
            session=session,
            session_owner=False,
            connection_timeout=timeout_seconds,
            read_timeout=timeout_seconds,
            use_env_settings=False,  # no netrc, no other roots
        )
        self.is_warming = False

    def send(self, request: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - two kinds of request, each with its answer
        """Send, unless all that was wanted is to be ready to.

        Raises:
            WarmError: while warming, in place of the first authorised request.
        """
        if self.is_warming and "Authorization" in request.headers:
            raise WarmError
        # Proxies are the one thing that the environment may say.
        proxies = requests.utils.get_environ_proxies(request.url)
        return super().send(request, **{**kwargs, "proxies": proxies})


class _BoundedBody:
    """A urllib3 response that gives up beyond a size; everything else is its own."""

    def __init__(self, raw: Any) -> None:  # noqa: ANN401 - urllib3's response, by duck type
        self._raw = raw

    def stream(self, amount: int, *, decode_content: bool) -> Iterator[bytes]:
        size = 0
        for chunk in self._raw.stream(amount, decode_content=decode_content):
            size += len(chunk)
            if size > MAX_ANSWER_BYTES:
                self._raw.close()
                raise _oversized()
            yield chunk

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - as above
        return getattr(self._raw, name)


def _bound_answer(
    response: requests.Response,
    **_kwargs: Any,  # noqa: ANN401 - requests' hooks get what send got
) -> requests.Response:
    length = response.headers.get("Content-Length", "0")
    if length.isdecimal() and int(length) > MAX_ANSWER_BYTES:
        response.close()
        raise _oversized()
    response.raw = _BoundedBody(response.raw)
    return response


def _oversized() -> TransportError:
    return TransportError(
        f"the vault answered with more than {MAX_ANSWER_BYTES} bytes",
        code="transport.oversized",
    )
