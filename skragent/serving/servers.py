"""The HTTP servers that the agent runs: for workloads, for root, for scrapers.

This is the seam between serving and the agent: give them listening sockets, start
them, close them.
"""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from skragent.errors import RequestError
from skragent.keyring import KeyState
from skragent.observe import KeySample, names
from skragent.serving.admin import SOCKET as ADMIN_SOCKET
from skragent.serving.admin import AdminApi
from skragent.serving.api import METHOD_NOT_ALLOWED, READING, SOCKET, KeyApi
from skragent.serving.http.response import Response, json_response, problem_response
from skragent.serving.limits import Limits
from skragent.serving.listener import Listener
from skragent.serving.quotas import SHARED_QUOTA

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from skragent.keyring import Keyring
    from skragent.observe import Cell, Counters
    from skragent.observe.metrics import MetricsPage
    from skragent.serving.access import Access
    from skragent.serving.admin import Control
    from skragent.serving.http.request import Request
    from skragent.serving.peers import Peer

# What an orderly end waits for readers; a stop takes 2 s in all.
CLOSE_SECONDS: Final = 1.0

_METRICS_SOCKET: Final = "metrics"
_SCRAPERS: Final = 32


class ApiServer:
    """Serves keys to the workloads that may have them.

    Args:
        sock: api.sock, bound.
        keyring: what is held.
        access: who may have it.
        counters: what is counted.
        now: the wall time.
        limits: the bounds of this socket.
    """

    def __init__(
        self,
        sock: socket.socket,
        keyring: Keyring,
        access: Access,
        counters: Counters,
        *,
        now: Callable[[], float],
        limits: Limits | None = None,
    ) -> None:
        limits = limits or Limits()
        self._api = KeyApi(keyring, access, counters, now=now)
        self._listener = Listener(
            sock,
            self._api.handle,
            counters=counters,
            name=SOCKET,
            limits=limits,
            on_tick=self._api.tick,
        )
        self._listener.owner_of = self._owner_of
        self._look_for_what_rules_name(access)
        self._keyring = keyring
        keyring.subscribe(self._cut_readers_of_dropped)

    async def start(self) -> None:
        """Begin to accept."""
        await self._listener.start()

    async def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Stop accepting, let answers under way be taken, cut what is left."""
        await self._listener.close(seconds)
        self._api.tick()

    def change_access(self, access: Access) -> None:
        """Use other rules from now on, also for connections that are open.

        Where no rule named a unit before, those who are connected have none.
        """
        self._look_for_what_rules_name(access)
        self._api.change_access(access)

    def change_limits(self, limits: Limits) -> None:
        """Have other bounds from now on; nobody is cut for them."""
        self._listener.change_limits(limits)

    def _look_for_what_rules_name(self, access: Access) -> None:
        self._access = access
        self._listener.wants_unit = access.wants_units
        self._listener.named_gids = access.gids

    def _owner_of(self, peer: Peer) -> int:
        return peer.uid if self._access.knows(peer) else SHARED_QUOTA

    def _cut_readers_of_dropped(self, alias: str) -> None:
        # A dropped key is wiped next: who has read half of it must not get zeros.
        # Few are ever that slow, so who reads another key is cut with them.
        entry = self._keyring.get(alias)
        if entry is None or entry.key is None:
            self._listener.cut_takers()


class AdminServer:
    """Takes orders from root."""

    def __init__(
        self,
        sock: socket.socket,
        keyring: Keyring,
        counters: Counters,
        control: Control,
        *,
        limits: Limits | None = None,
    ) -> None:
        limits = limits or Limits()
        api = AdminApi(keyring, counters, control)
        self._listener = Listener(
            sock,
            api.handle,
            counters=counters,
            name=ADMIN_SOCKET,
            limits=limits,
            takes_body=api.takes_body,
        )

    async def start(self) -> None:
        """Begin to accept."""
        await self._listener.start()

    def change_limits(self, limits: Limits) -> None:
        """Have other bounds from now on; nobody is cut for them."""
        self._listener.change_limits(limits)

    async def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Stop accepting, let answers under way be taken, cut what is left."""
        await self._listener.close(seconds)


class MetricsServer:
    """Serves numbers to whoever reaches the socket; it has no secrets."""

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
        # Callers have no names here, so that the newest comes first: no limit is one's.
        limits = replace(
            limits or Limits(),
            connections=_SCRAPERS,
            connections_per_uid=_SCRAPERS + 1,
        )
        self._listener = Listener(
            sock,
            self._handle,
            counters=counters,
            name=_METRICS_SOCKET,
            limits=limits,
            on_tick=self._forget_page,
        )

    async def start(self) -> None:
        """Begin to accept."""
        await self._listener.start()

    async def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Stop accepting, let answers under way be taken, cut what is left."""
        await self._listener.close(seconds)

    def _handle(self, request: Request, peer: Peer) -> Response:  # noqa: ARG002 - a handler's
        op = {"/metrics": "metrics", "/healthz": "health"}.get(request.path, "none")
        if request.method not in READING:
            error = RequestError(
                f"the method must be {' or '.join(READING)}",
                code="serve.method",
                status=METHOD_NOT_ALLOWED,
            )
            allow = {"Allow": ", ".join(READING)}
            return problem_response(
                error, cell=self._cell(op, error.code), headers=allow
            )
        if request.has_body:
            error = RequestError("this request has no body", code="serve.body")
            return problem_response(error, cell=self._cell(op, error.code))
        if op == "none":
            error = RequestError(
                "there is nothing here", code="serve.not_found", status=404
            )
            return problem_response(error, cell=self._cell(op, error.code))
        cell = self._cell(op, names.CODE_OK)
        if op == "health":
            return json_response({"status": "ok"}, cell=cell)
        body, content_type = self._metrics().render(request.headers.get("accept", ""))
        return Response(HTTPStatus.OK, {"Content-Type": content_type}, body, cell=cell)

    def _cell(self, op: str, code: str) -> Cell:
        return self._counters.requests_cell(_METRICS_SOCKET, op, code)

    def _metrics(self) -> MetricsPage:
        if self._page is None:
            # 14 MiB and 70 ms that an agent without a scraper does not pay.
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
