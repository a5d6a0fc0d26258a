"""The metrics port: Prometheus metrics for every process that reaches the socket.

The metrics contain no secrets.
"""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from skragent.errors import RequestError
from skragent.keyring import KeyState
from skragent.observe import KeySample, names
from skragent.serving.admission import Limits
from skragent.serving.documents import HEALTHY
from skragent.serving.http.response import Response, json_response, problem_response
from skragent.serving.listener import Listener
from skragent.serving.negotiation import (
    READ,
    check_request,
    method_headers,
    not_found,
)
from skragent.serving.servers import CLOSE_SECONDS

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from skragent.keyring import Keyring
    from skragent.observe import Counters
    from skragent.observe.metrics import MetricsPage
    from skragent.serving.http.request import Request
    from skragent.serving.peers import Peer

_SOCKET: Final = "metrics"
_MAX_CONNECTIONS: Final = 32


class MetricsServer:
    """Serves the metrics.

    Args:
        sock: bound.
        keyring: the held keys.
        counters: the counters of the agent.
        limits: the limits of each connection.
    """

    def __init__(
        self,
        sock: socket.socket,
        keyring: Keyring,
        counters: Counters,
        *,
        limits: Limits | None = None,
    ) -> None:
        self._keyring = keyring
        self._counters = counters
        self._page: MetricsPage | None = None
        # All callers share one quota here, so no caller has a limit of its own.
        limits = replace(
            limits or Limits(),
            connections=_MAX_CONNECTIONS,
            connections_per_uid=_MAX_CONNECTIONS + 1,
        )
        self._listener = Listener(
            sock,
            self._handle,
            counters=counters,
            name=_SOCKET,
            limits=limits,
            on_tick=self._forget_page,
        )

    async def start(self) -> None:
        """Begin to accept."""
        await self._listener.start()

    async def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Stop accepting; give peers some seconds to read responses; close."""
        await self._listener.close(seconds)

    def _handle(self, request: Request, peer: Peer) -> Response:
        routes = {"/metrics": "metrics", "/healthz": "health"}
        op = routes.get(request.path, "none")
        try:
            check_request(request, READ)
            if op == "none":
                not_found(request, peer)
        except RequestError as error:
            counter = self._counters.requests_cell(_SOCKET, op, error.code)
            headers = method_headers(error, READ)
            return problem_response(error, counter=counter, headers=headers)
        counter = self._counters.requests_cell(_SOCKET, op, names.CODE_OK)
        if op == "health":
            return json_response(HEALTHY, counter=counter)
        body, content_type = self._metrics().render(request.headers.get("accept", ""))
        headers = {"Content-Type": content_type}
        return Response(HTTPStatus.OK, headers, body, counter=counter)

    def _metrics(self) -> MetricsPage:
        if self._page is None:
            # The import costs 14 MiB and 70 ms. Agents without metrics do not pay it.
            from skragent.observe.metrics import MetricsPage  # noqa: PLC0415 - see above

            self._page = MetricsPage(self._counters, self._samples)
        return self._page

    def _forget_page(self) -> None:
        if self._page is not None:
            self._page.forget()

    def _samples(self) -> Iterator[KeySample]:
        for entry in self._keyring:
            key = entry.key
            yield KeySample(
                alias=entry.alias,
                is_available=key is not None,
                is_stale=entry.state is KeyState.STALE,
                needs_attention=entry.needs_attention,
                released_at=key.released_at if key else None,
                not_after=key.not_after if key else None,
            )
