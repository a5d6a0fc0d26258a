"""api.sock: the resources for workloads.

`skragent.serving.routes` has the table of them, and openapi.json describes them to
programs. HEAD is GET without the body for every resource. HEAD gives no key away, so
the journal has no line for it; a denied HEAD has one, as GET has.

A key that does not exist and a key that the caller may not use get the same response.
Responses with key bytes are rendered once per key and form. They are invalidated when
the keyring reports a change of the key, and each second, because they contain the age
of the key.
"""

from __future__ import annotations

import urllib.parse
from http import HTTPStatus
from importlib import resources
from typing import TYPE_CHECKING, Final, NamedTuple, get_args

from skragent import __version__
from skragent.errors import AccessDeniedError, NotReadyError, RequestError, ServeError
from skragent.keyring import KeyState
from skragent.observe import names
from skragent.serving.access import Operation
from skragent.serving.audit import Audit
from skragent.serving.documents import (
    HEALTHY,
    Caller,
    Key,
    KeyList,
    KeyProblem,
    Status,
    describe_key_for,
    key_headers,
    media_types,
    overall_state,
    status_response,
)
from skragent.serving.http.long_poll import LongPolls
from skragent.serving.http.response import (
    JSON,
    Response,
    json_response,
    problem_response,
)
from skragent.serving.negotiation import (
    READ,
    check_request,
    choose_form,
    matches_tag,
    method_headers,
    not_found,
    parse_query,
    parse_wait,
)
from skragent.serving.routes import (
    KEY_PREFIX,
    MAX_RETRY_SECONDS,
    MIN_RETRY_SECONDS,
    PUBLIC_SUFFIX,
    find_route,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from skragent.job import Form
    from skragent.keyring import Entry, HeldKey, Keyring
    from skragent.observe import Cell, Counters
    from skragent.serving.access import Access
    from skragent.serving.http.long_poll import LongPoll
    from skragent.serving.http.request import Request
    from skragent.serving.negotiation import Choice
    from skragent.serving.peers import Peer

    Handler = Callable[[Request, Peer], Response | LongPoll]

SOCKET: Final = "api"

_ANY_KEY: Final = ""  # the resource of status long polls; no key has this name
_UNKNOWN: Final = ("none", not_found)


class _KeyRequest(NamedTuple):
    """A request for one key."""

    alias: str
    operation: Operation
    version: str | None  # None: any
    accept: str
    if_none_match: str
    gives_bytes: bool  # False for HEAD


_ResponseName = tuple[str, Operation, "Choice", bool]  # version; tag matches


class KeyApi:
    """Handles the requests of all connections.

    Args:
        keyring: the held keys.
        access: the access rules.
        counters: the counters of the agent.
        now: returns the wall time, for the age of a key.
        due_at: returns the wall time of the next attempt to release a key; None if no
            attempt is planned.
    """

    def __init__(
        self,
        keyring: Keyring,
        access: Access,
        counters: Counters,
        *,
        now: Callable[[], float],
        due_at: Callable[[str], float | None],
    ) -> None:
        self._keyring = keyring
        self._access = access
        self._counters = counters
        self._now, self._due_at = now, due_at
        self._audit = Audit(counters)
        self._long_polls = LongPolls()  # by key
        self._key_responses: dict[str, dict[_ResponseName, Response]] = {}
        self._openapi: Response | None = None
        self._handlers: dict[str, Handler] = {
            "list": self._list,
            "get": self._get,
            "public": self._public,
            "status": self._status,
            "openapi": self._describe_api,
            "health": self._health,
        }
        keyring.subscribe(self._on_change)
        for op, code in (("list", names.CODE_OK), ("get", names.CODE_OK)):
            counters.requests_cell(SOCKET, op, code)

    def change_access(self, access: Access) -> None:
        """Use other rules from now on, also for open connections."""
        self._access = access
        self._audit.forget_denials()
        for entry in self._keyring:
            self._on_change(entry.alias)

    def tick(self) -> None:
        """Write the audit log, and drop outdated responses; called each second."""
        self._audit.tick()
        for alias in list(self._key_responses):
            self._invalidate(alias)

    def handle(self, request: Request, peer: Peer) -> Response | LongPoll:
        """Return the response to a request, or a long poll."""
        route = find_route(request.path)
        op, handler = (route.op, self._handlers[route.op]) if route else _UNKNOWN
        try:
            check_request(request, READ)
            return handler(request, peer)
        except ServeError as error:
            return self._problem(op, error, method_headers(error, READ))

    def _health(self, request: Request, peer: Peer) -> Response:  # noqa: ARG002 - a handler's
        counter = self._counter("health", names.CODE_OK)
        return json_response(HEALTHY, counter=counter)

    def _describe_api(self, request: Request, peer: Peer) -> Response:  # noqa: ARG002 - a handler's
        if self._openapi is None:
            document = resources.files("skragent.serving").joinpath("openapi.json")
            self._openapi = Response(
                HTTPStatus.OK,
                {"Content-Type": JSON},
                document.read_bytes(),
                counter=self._counter("openapi", names.CODE_OK),
                is_cacheable=True,
            )
        return self._openapi

    def _list(self, request: Request, peer: Peer) -> Response:
        parse_query(request, ())
        keys = self._describe(self._visible_to(peer), peer)
        counter = self._counter("list", names.CODE_OK)
        return json_response(KeyList(keys), counter=counter)

    def _status(self, request: Request, peer: Peer) -> Response | LongPoll:
        you = Caller(
            uid=peer.uid,
            gid=peer.gid,
            groups=tuple(sorted(peer.groups)),
            pid=peer.pid,
            unit=peer.unit or None,
            user_unit=peer.user_unit or None,
        )

        def document() -> Status:
            entries = self._visible_to(peer)
            return Status(
                version=__version__,
                state=overall_state(entries),
                you=you,
                keys=self._describe(entries, peer),
            )

        wait = parse_wait(parse_query(request, ("wait",)).get("wait"))

        def respond(is_final: bool) -> Response | None:  # noqa: FBT001 - LongPoll's
            return status_response(
                document(),
                request.headers.get("if-none-match", ""),
                is_final=is_final,
                counter_of=lambda code: self._counter("status", code),
            )

        return self._respond_or_wait("status", _ANY_KEY, wait, respond)

    def _get(self, request: Request, peer: Peer) -> Response | LongPoll:
        return self._one_key(request, peer, request.path[len(KEY_PREFIX) :], "get")

    def _public(self, request: Request, peer: Peer) -> Response | LongPoll:
        name = request.path[len(KEY_PREFIX) : -len(PUBLIC_SUFFIX)]
        return self._one_key(request, peer, name, "public")

    def _one_key(
        self, request: Request, peer: Peer, name: str, operation: Operation
    ) -> Response | LongPoll:
        alias = urllib.parse.unquote(name)
        self._authorize(peer, alias, operation)  # before errors in the query
        query = parse_query(request, ("version", "wait"))
        wait = parse_wait(query.get("wait"))
        key_request = _KeyRequest(
            alias=alias,
            operation=operation,
            version=query.get("version"),
            accept=request.headers.get("accept", ""),
            if_none_match=request.headers.get("if-none-match", ""),
            gives_bytes=request.method != "HEAD",
        )

        def respond(is_final: bool) -> Response | None:  # noqa: FBT001 - LongPoll's
            return self._respond_with_key(key_request, peer, is_final=is_final)

        return self._respond_or_wait(operation, alias, wait, respond)

    def _respond_or_wait(
        self,
        op: str,
        resource: str,
        seconds: float,
        respond: Callable[[bool], Response | None],
    ) -> Response | LongPoll:
        """Return a response or a long poll. Errors later become responses as well."""

        def respond_safely(is_final: bool) -> Response | None:  # noqa: FBT001 - LongPoll's
            try:
                return respond(is_final)
            except ServeError as error:
                return self._problem(op, error, {})

        return self._long_polls.respond_or_wait(resource, seconds, respond_safely)

    def _authorize(self, peer: Peer, alias: str, operation: Operation) -> Entry:
        entry = self._keyring.get(alias)
        if entry is None or not self._access.allows(peer, alias, operation):
            self._audit.denied(peer, alias, operation, is_configured=entry is not None)
            raise AccessDeniedError(
                "the key does not exist, or no rule permits you to use it"
            )
        return entry

    def _respond_with_key(
        self, request: _KeyRequest, peer: Peer, *, is_final: bool
    ) -> Response | None:
        """Return the response for a key; None while the caller can wait."""
        entry = self._authorize(peer, request.alias, request.operation)
        key = entry.key
        if key is None:
            return self._not_ready(entry, request.operation) if is_final else None
        if entry.previous is not None and request.version == entry.previous.version:
            key = entry.previous
        if request.version not in (None, key.version):
            if not is_final:
                return None
            raise AccessDeniedError(
                f"the agent holds version {key.version} of the key, not the requested"
                " version",
                code="serve.version",
            )
        forms = _forms(key, request.operation)
        try:
            choice = choose_form(request.accept, forms)
        except RequestError as error:
            formats = media_types(forms)
            return self._problem(request.operation, error, {}, formats=formats)
        is_known = matches_tag(request.if_none_match, key.version)
        if is_known and not is_final:
            return None
        if request.gives_bytes:
            self._audit.served(peer, key, request.operation)
        return self._key_response(entry, key, request.operation, choice, is_known)

    def _key_response(
        self,
        entry: Entry,
        key: HeldKey,
        operation: Operation,
        choice: Choice,
        is_known: bool,  # noqa: FBT001 - a part of the name
    ) -> Response:
        responses = self._key_responses.setdefault(key.alias, {})
        name = key.version, operation, choice, is_known
        response = responses.get(name)
        if response is None:
            code = names.CODE_NOT_MODIFIED if is_known else names.CODE_OK
            body = _forms(key, operation)[choice.form]
            response = responses[name] = Response(
                HTTPStatus.NOT_MODIFIED if is_known else HTTPStatus.OK,
                key_headers(entry, key, choice.media_type, self._now()),
                b"" if is_known else body,
                counter=self._counter(operation, code),
                is_cacheable=True,
            )
        return response

    def _not_ready(self, entry: Entry, op: str) -> Response:
        why = f"; the last attempt failed: {entry.failure_code}"
        error = NotReadyError(
            f"the agent does not hold the key: its state is {entry.state}"
            + (why if entry.failure_code else "")
        )
        due_at = self._due_at(entry.alias)
        left = 0 if due_at is None else int(due_at - self._now()) + 1
        if entry.state is KeyState.DROPPED:  # only an administrator can change that
            left = MAX_RETRY_SECONDS
        retry_after = min(max(left, MIN_RETRY_SECONDS), MAX_RETRY_SECONDS)
        return self._problem(
            op,
            error,
            {"Retry-After": str(retry_after)},
            state=entry.state,
            last_failure=entry.failure_code or None,
        )

    def _visible_to(self, peer: Peer) -> list[Entry]:
        return [entry for entry in self._keyring if self._operations(peer, entry.alias)]

    def _operations(self, peer: Peer, alias: str) -> tuple[Operation, ...]:
        return tuple(
            operation
            for operation in get_args(Operation)
            if self._access.allows(peer, alias, operation)
        )

    def _describe(self, entries: list[Entry], peer: Peer) -> tuple[Key, ...]:
        """Describe keys, and the operations that the caller may use."""
        return tuple(
            describe_key_for(self._operations(peer, entry.alias), entry)
            for entry in entries
        )

    def _on_change(self, alias: str) -> None:
        self._invalidate(alias)
        self._long_polls.notify(alias)
        self._long_polls.notify(_ANY_KEY)

    def _invalidate(self, alias: str) -> None:
        for response in self._key_responses.pop(alias, {}).values():
            response.invalidate()

    def _problem(
        self, op: str, error: ServeError, headers: Mapping[str, str], **members: object
    ) -> Response:
        counter = self._counter(op, error.code)
        return problem_response(
            error, counter=counter, headers=headers, kind=KeyProblem, **members
        )

    def _counter(self, op: str, code: str) -> Cell:
        return self._counters.requests_cell(SOCKET, op, code)


def _forms(key: HeldKey, operation: Operation) -> Mapping[Form, bytes | memoryview]:
    """Return the forms of a key that an operation gives away."""
    if operation == "get":
        return key.forms
    if not key.public_jwk:
        raise RequestError(
            "a symmetric key has no public half",
            code="serve.not_found",
            status=HTTPStatus.NOT_FOUND,
        )
    return {"jwk": key.public_jwk.encode(), "pem": key.public_pem.encode()}
