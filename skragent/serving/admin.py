"""admin.sock: the resources for administrators, root and the user of the agent.

    GET /v1/status[?wait=]     the state of the agent and of all keys
    POST /v1/refresh           release now: all keys, or {"keys": [NAME...]}
    POST /v1/reload            read the configuration again
    DELETE /v1/keys/NAME       wipe a key, until it is refreshed by name
    GET /healthz               200 while the agent serves

HEAD is GET without the body.

The mode of the socket keeps other users out. The agent checks the uid as well, because
a mode can be changed and a socket can be passed on.
"""

from __future__ import annotations

import json
import os
import urllib.parse
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import msgspec

from skragent import __version__
from skragent.config_rules import shown
from skragent.errors import AccessDeniedError, NotReadyError, RequestError, ServeError
from skragent.keyring import KeyState
from skragent.observe import Event, log, names
from skragent.serving.documents import (
    HEALTHY,
    describe_key,
    overall_state,
    status_response,
)
from skragent.serving.http.long_poll import LongPolls
from skragent.serving.http.response import json_response, problem_response
from skragent.serving.negotiation import (
    READ,
    check_request,
    method_headers,
    not_found,
    parse_query,
    parse_wait,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from skragent.errors import AgentError
    from skragent.keyring import Keyring
    from skragent.observe import Cell, Counters
    from skragent.serving.http.long_poll import LongPoll
    from skragent.serving.http.request import Request
    from skragent.serving.http.response import Response
    from skragent.serving.peers import Peer

SOCKET: Final = "admin"

_KEYS: Final = "/v1/keys/"
_REFRESH: Final = "/v1/refresh"
# The resources of long polls.
_STATUS: Final = "status"
_RELOAD: Final = "reload"
# Longer than a reload, which has time limits for the file and for its names.
_RELOAD_SECONDS: Final = 75.0


class ReloadOutcome(Protocol):
    """The outcome of a reload."""

    @property
    def error(self) -> AgentError | None:
        """Return why the new configuration is not in force."""
        ...

    @property
    def needs_restart(self) -> Sequence[str]:
        """Return the settings that need a restart."""
        ...


class Control(Protocol):
    """The operations of the agent for administrators."""

    def refresh(self, aliases: Sequence[str]) -> None:
        """Release these keys as soon as possible."""
        ...

    def reload(self, listener: Callable[[ReloadOutcome], None]) -> None:
        """Read the configuration again, and call `listener` with the outcome."""
        ...

    def drop(self, alias: str) -> None:
        """Wipe a key, and do not release it again by itself."""
        ...

    def describe(self) -> Mapping[str, object]:
        """Return more members for the status of the agent."""
        ...

    def describe_key(self, alias: str) -> Mapping[str, object]:
        """Return more members for the status of a key."""
        ...


class _Route(NamedTuple):
    op: str
    methods: tuple[str, ...]
    handler: Callable[[Request, Peer], Response | LongPoll]


class AdminApi:
    """Handles the requests of administrators.

    Args:
        keyring: the held keys.
        counters: the counters of the agent.
        control: the operations of the agent.
    """

    def __init__(self, keyring: Keyring, counters: Counters, control: Control) -> None:
        self._keyring = keyring
        self._counters = counters
        self._control = control
        self._long_polls = LongPolls()
        self._trusted = frozenset({0, os.geteuid()})
        keyring.observe(lambda: self._long_polls.notify(_STATUS))

    def handle(self, request: Request, peer: Peer) -> Response | LongPoll:
        """Return the response to a request, or a long poll."""
        op, methods, handler = self._route(request.path)
        try:
            if peer.uid not in self._trusted:
                self._counters.denied[names.DENIED_NO_RULE] += 1
                raise AccessDeniedError("only root may use this socket")
            check_request(request, methods, accepts_body=op == "refresh")
            return handler(request, peer)
        except ServeError as error:
            counter = self._counter(op, error.code)
            headers = method_headers(error, methods)
            return problem_response(error, counter=counter, headers=headers)

    def accepts_body(self, request: Request, peer: Peer) -> bool:
        """Return whether the handler wants the body of a request."""
        is_refresh = (request.method, request.path) == ("POST", _REFRESH)
        return is_refresh and peer.uid in self._trusted

    def _route(self, path: str) -> _Route:
        if path.startswith(_KEYS):
            return _Route("drop", ("DELETE",), self._drop)
        routes = {
            "/v1/status": _Route("status", READ, self._status),
            _REFRESH: _Route("refresh", ("POST",), self._refresh),
            "/v1/reload": _Route("reload", ("POST",), self._reload),
            "/healthz": _Route("health", READ, self._health),
        }
        return routes.get(path, _Route("none", (), not_found))

    def _health(self, request: Request, peer: Peer) -> Response:  # noqa: ARG002 - a handler's
        return self._ok("health", HEALTHY)

    def _status(self, request: Request, peer: Peer) -> Response | LongPoll:  # noqa: ARG002 - a handler's
        wait = parse_wait(parse_query(request, ("wait",)).get("wait"))

        def respond(is_final: bool) -> Response | None:  # noqa: FBT001 - LongPoll's
            return status_response(
                self._status_document(),
                request.headers.get("if-none-match", ""),
                is_final=is_final,
                counter_of=lambda code: self._counter("status", code),
            )

        return self._long_polls.respond_or_wait(_STATUS, wait, respond)

    def _status_document(self) -> dict[str, object]:
        entries = list(self._keyring)
        keys = [
            msgspec.structs.asdict(describe_key(entry))
            | {
                "last_failure": entry.failure_code or None,
                "last_failure_message": entry.failure_message or None,
                "last_failure_hint": entry.failure_hint or None,
                "attempts": entry.attempts,
                "needs_attention": entry.needs_attention,
                "repeats_nonce": entry.key.repeats_nonce if entry.key else None,
            }
            | dict(self._control.describe_key(entry.alias))
            for entry in entries
        ]
        counters = self._counters
        sockets = {
            name: {
                "connections": counters.connections[name],
                "in_flight": counters.in_flight[name],
            }
            for name in counters.connections
        }
        return {
            "version": __version__,
            "state": overall_state(entries),
            **self._control.describe(),
            "memory": counters.memory_kind or None,
            "attestation": {
                "attested_at": counters.attested_at,
                "token_expires_at": counters.token_expires_at,
                "ak_certificate_expires_at": counters.ak_certificate_expires_at,
            },
            "sockets": sockets,
            "keys": keys,
        }

    def _refresh(self, request: Request, peer: Peer) -> Response:
        parse_query(request, ())
        named = _named_keys(request.body)
        for alias in named or ():
            self._require(alias)
        # A dropped key is refreshed only by its name.
        aliases = self._not_dropped() if named is None else named
        _log(peer, f"refresh of {', '.join(aliases) or 'no key'} requested")
        self._control.refresh(aliases)
        # The result is there when the status has a larger number of attempts.
        attempts = {e.alias: e.attempts for e in self._keyring if e.alias in aliases}
        return self._ok(
            "refresh",
            {
                "refreshing": list(aliases),
                "attempts": attempts,
                # An agent that restarts in between counts from zero again.
                "started_at": self._control.describe().get("started_at"),
            },
            HTTPStatus.ACCEPTED,
        )

    def _reload(self, request: Request, peer: Peer) -> Response | LongPoll:
        parse_query(request, ())
        outcomes: list[ReloadOutcome] = []

        def listen(outcome: ReloadOutcome) -> None:
            outcomes.append(outcome)
            self._long_polls.notify(_RELOAD)

        def respond(is_final: bool) -> Response | None:  # noqa: FBT001 - LongPoll's
            if outcomes:
                return self._reloaded(outcomes[0])
            if not is_final:
                return None
            error = NotReadyError("the reload is not finished yet")
            return problem_response(error, counter=self._counter("reload", error.code))

        _log(peer, "reload requested")
        self._control.reload(listen)
        return self._long_polls.respond_or_wait(_RELOAD, _RELOAD_SECONDS, respond)

    def _reloaded(self, outcome: ReloadOutcome) -> Response:
        if outcome.error is None:
            return self._ok("reload", {"needs_restart": list(outcome.needs_restart)})
        error = RequestError(
            outcome.error.message,
            code=outcome.error.code,
            status=HTTPStatus.UNPROCESSABLE_ENTITY,
        )
        return problem_response(error, counter=self._counter("reload", error.code))

    def _drop(self, request: Request, peer: Peer) -> Response:
        parse_query(request, ())
        alias = urllib.parse.unquote(request.path[len(_KEYS) :])
        self._require(alias)
        _log(peer, f"drop of key {alias} requested", key=alias)
        self._control.drop(alias)
        return self._ok("drop", {"dropped": alias})

    def _not_dropped(self) -> tuple[str, ...]:
        return tuple(
            entry.alias
            for entry in self._keyring
            if entry.state is not KeyState.DROPPED
        )

    def _require(self, alias: str) -> None:
        if self._keyring.get(alias) is None:
            raise AccessDeniedError(f"there is no key `{shown(alias)}`")

    def _ok(
        self, op: str, document: object, status: HTTPStatus = HTTPStatus.OK
    ) -> Response:
        counter = self._counter(op, names.CODE_OK)
        return json_response(document, counter=counter, status=status)

    def _counter(self, op: str, code: str) -> Cell:
        return self._counters.requests_cell(SOCKET, op, code)


def _named_keys(body: bytes) -> tuple[str, ...] | None:
    """Parse {"keys": [...]}; None without a body, for all keys.

    Raises:
        RequestError: serve.bad_request
    """
    if not body:
        return None
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError("the body is not JSON") from error
    keys = document.get("keys") if isinstance(document, dict) else None
    is_known = isinstance(document, dict) and document.keys() == {"keys"}
    if not is_known or not isinstance(keys, list) or not keys:
        raise RequestError('the body must be {"keys": [NAME, ...]} or empty')
    if not all(isinstance(key, str) for key in keys):
        raise RequestError("the name of a key must be a string")
    return tuple(dict.fromkeys(keys))


def _log(peer: Peer, message: str, key: str | None = None) -> None:
    message = f"{message} by uid {peer.uid}"
    log(Event.ADMIN, message, key=key, uid=peer.uid, pid=peer.pid)
