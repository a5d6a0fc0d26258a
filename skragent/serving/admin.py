"""admin.sock: what an administrator may ask and order. Root's, and the agent's own.

    GET /v1/status[?wait=]     everything that is known
    POST /v1/refresh           release now: all keys, or {"keys": [NAME...]}
    POST /v1/reload            read the configuration again
    DELETE /v1/keys/NAME       wipe a key; it stays away until it is refreshed by name
    GET /healthz               200 while we serve

HEAD is GET without the body.

The socket's mode keeps others out; the peer's uid is looked at all the same, for a
mode can be changed and a socket passed on.
"""

from __future__ import annotations

import json
import os
import urllib.parse
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Protocol

from skragent import __version__
from skragent.config_rules import shown
from skragent.errors import AccessDeniedError, RequestError, ServeError
from skragent.keyring import KeyState
from skragent.observe import Event, log, names
from skragent.serving.documents import describe_key, overall_state
from skragent.serving.http.long_poll import LongPolls
from skragent.serving.http.response import Response, json_response, problem_response
from skragent.serving.query import parse_query, parse_wait
from skragent.serving.status import status_response

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from skragent.errors import AgentError
    from skragent.keyring import Keyring
    from skragent.observe import Cell, Counters
    from skragent.serving.http.long_poll import LongPoll
    from skragent.serving.http.request import Request
    from skragent.serving.peers import Peer

SOCKET: Final = "admin"
METHOD_NOT_ALLOWED: Final = 405

_KEYS: Final = "/v1/keys/"
_REFRESH: Final = "/v1/refresh"
# The methods of a resource.
_READ: Final = ("GET", "HEAD")  # RFC 9110 §9.3.2
_ORDER: Final = ("POST",)
_DELETE: Final = ("DELETE",)
# What is waited for.
_STATUS: Final = "status"
_RELOAD: Final = "reload"
# Longer than a reload takes at most, for both the file and the names in it.
_RELOAD_SECONDS: Final = 75.0

UNPROCESSABLE: Final = 422
SERVICE_UNAVAILABLE: Final = 503


class ReloadOutcome(Protocol):
    """What came of a reload."""

    @property
    def error(self) -> AgentError | None:
        """Return why the file was refused."""
        ...

    @property
    def needs_restart(self) -> Sequence[str]:
        """Return the settings that are in force after a restart only."""
        ...


class Control(Protocol):
    """What an administrator can order of the agent."""

    def refresh(self, aliases: Sequence[str]) -> None:
        """Have these keys released as soon as it can be."""
        ...

    def reload(self, listener: Callable[[ReloadOutcome], None]) -> None:
        """Have the configuration read again; `listener` hears what came of it."""
        ...

    def drop(self, alias: str) -> None:
        """Wipe a key and keep it away."""
        ...

    def describe(self) -> Mapping[str, object]:
        """Tell of the agent as a whole: more members for the status."""
        ...

    def describe_key(self, alias: str) -> Mapping[str, object]:
        """Tell of one key what only the supervisor knows."""
        ...


class AdminApi:
    """Answers an administrator."""

    def __init__(self, keyring: Keyring, counters: Counters, control: Control) -> None:
        self._keyring = keyring
        self._counters = counters
        self._control = control
        self._lots = LongPolls()
        self._trusted = frozenset({0, os.geteuid()})
        keyring.observe(lambda: self._lots.look(_STATUS))

    def handle(self, request: Request, peer: Peer) -> Response | LongPoll:
        """Answer one request, now or later; every refusal is an answer."""
        op, methods, answer = self._route(request.path)
        try:
            if peer.uid not in self._trusted:
                self._counters.denied[names.DENIED_NO_RULE] += 1
                raise AccessDeniedError("only root may ask here")
            if methods and request.method not in methods:
                raise RequestError(
                    f"the method must be {' or '.join(methods)}",
                    code="serve.method",
                    status=METHOD_NOT_ALLOWED,
                )
            if request.has_body and methods != _ORDER:
                raise RequestError("this request has no body", code="serve.body")
            return answer(request, peer)
        except ServeError as error:
            allow = {"Allow": ", ".join(methods)}
            headers = allow if error.status == METHOD_NOT_ALLOWED else {}
            cell = self._cell(op, error.code)
            return problem_response(error, cell=cell, headers=headers)

    def takes_body(self, request: Request, peer: Peer) -> bool:
        """Return whether the body of a request is read, by its head."""
        is_refresh = (request.method, request.path) == ("POST", _REFRESH)
        return is_refresh and peer.uid in self._trusted

    def _route(
        self, path: str
    ) -> tuple[str, tuple[str, ...], Callable[[Request, Peer], Response | LongPoll]]:
        if path.startswith(_KEYS):
            return "drop", _DELETE, self._drop
        routes = {
            "/v1/status": ("status", _READ, self._status),
            _REFRESH: ("refresh", _ORDER, self._refresh),
            "/v1/reload": ("reload", _ORDER, self._reload),
            "/healthz": ("health", _READ, self._health),
        }
        return routes.get(path, ("none", (), _nothing))

    def _health(self, request: Request, peer: Peer) -> Response:  # noqa: ARG002 - a handler's
        return json_response({"status": "ok"}, cell=self._cell("health", names.CODE_OK))

    def _status(self, request: Request, peer: Peer) -> Response | LongPoll:  # noqa: ARG002 - a handler's
        wait = parse_wait(parse_query(request, ("wait",)).get("wait"))

        def ask(must: bool) -> Response | None:  # noqa: FBT001 - Parked's
            return status_response(
                self._document(),
                request.headers.get("if-none-match", ""),
                must=must,
                cell_of=lambda code: self._cell("status", code),
            )

        return self._lots.now_or_later(_STATUS, wait, ask)

    def _document(self) -> dict[str, object]:
        entries = list(self._keyring)
        keys = [
            describe_key(entry)
            | {
                "last_failure": entry.failure_code or None,
                "last_failure_message": entry.failure_message or None,
                "last_failure_hint": entry.failure_hint or None,
                "attempts": entry.attempts,
                "retry_at": entry.retry_at,
                "wipe_at": entry.wipe_at,
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
        # What was dropped comes back only by its name.
        wanted = self._not_dropped() if named is None else named
        _log(peer, f"refresh of {', '.join(wanted) or 'nothing'} was ordered")
        self._control.refresh(wanted)
        # Of a key whose `attempts` in the status is more, the result is there.
        attempts = {e.alias: e.attempts for e in self._keyring if e.alias in wanted}
        return json_response(
            {
                "refreshing": list(wanted),
                "attempts": attempts,
                # An agent that was restarted meanwhile counts from zero.
                "started_at": self._control.describe().get("started_at"),
            },
            cell=self._cell("refresh", names.CODE_OK),
            status=HTTPStatus.ACCEPTED,
        )

    def _reload(self, request: Request, peer: Peer) -> Response | LongPoll:
        parse_query(request, ())
        if request.has_body:
            raise RequestError("this request has no body", code="serve.body")
        heard: list[ReloadOutcome] = []

        def listen(outcome: ReloadOutcome) -> None:
            heard.append(outcome)
            self._lots.look(_RELOAD)

        def ask(must: bool) -> Response | None:  # noqa: FBT001 - Parked's
            if heard:
                return self._reloaded(heard[0])
            if not must:
                return None
            error = ServeError("the reload goes on still", code="serve.not_ready")
            error.status = SERVICE_UNAVAILABLE
            return problem_response(error, cell=self._cell("reload", error.code))

        _log(peer, "a reload was ordered")
        self._control.reload(listen)
        return self._lots.now_or_later(_RELOAD, _RELOAD_SECONDS, ask)

    def _reloaded(self, outcome: ReloadOutcome) -> Response:
        if outcome.error is not None:
            refused = RequestError(
                outcome.error.message, code=outcome.error.code, status=UNPROCESSABLE
            )
            return problem_response(refused, cell=self._cell("reload", refused.code))
        return json_response(
            {"needs_restart": list(outcome.needs_restart)},
            cell=self._cell("reload", names.CODE_OK),
        )

    def _drop(self, request: Request, peer: Peer) -> Response:
        parse_query(request, ())
        alias = urllib.parse.unquote(request.path[len(_KEYS) :])
        self._require(alias)
        _log(peer, f"key {alias} was ordered to be dropped", key=alias)
        self._control.drop(alias)
        return json_response({"dropped": alias}, cell=self._cell("drop", names.CODE_OK))

    def _not_dropped(self) -> tuple[str, ...]:
        return tuple(
            entry.alias
            for entry in self._keyring
            if entry.state is not KeyState.DROPPED
        )

    def _require(self, alias: str) -> None:
        if self._keyring.get(alias) is None:
            raise AccessDeniedError(f"there is no key `{shown(alias)}`")

    def _cell(self, op: str, code: str) -> Cell:
        return self._counters.requests_cell(SOCKET, op, code)


def _named_keys(body: bytes) -> tuple[str, ...] | None:
    """Read {"keys": [...]}; None where all are meant.

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
        raise RequestError('the body is {"keys": [NAME, ...]}, or none')
    if not all(isinstance(key, str) for key in keys):
        raise RequestError("a key's name is a string")
    return tuple(dict.fromkeys(keys))


def _nothing(request: Request, peer: Peer) -> Response:  # noqa: ARG001 - a handler's
    raise RequestError("there is nothing here", code="serve.not_found", status=404)


def _log(peer: Peer, what: str, key: str | None = None) -> None:
    log(Event.ADMIN, f"{what} by uid {peer.uid}", key=key, uid=peer.uid, pid=peer.pid)
