"""api.sock: what workloads may ask, and the answers.

    GET /v1/keys                          the keys that this caller may have
    GET /v1/keys/NAME[?version=&wait=]    one key, in the form of Accept
    GET /v1/keys/NAME/public[?...]        its public half
    GET /v1/status[?wait=]                the same keys, and who we think is asking
    GET /v1/openapi.json                  all of this, for programs
    GET /healthz                          200 while we serve

HEAD is GET without the body, in all of this. It gives no key away, so that the journal
does not say that a key was given; a refusal is written as GET's is.

A key that does not exist and one that the caller may not have are the same answer.
Answers with key bytes are made once per key and form, and retired when the keyring
says that the key changed, or a second is over, for they tell the key's age; until
then connections send them again (see `wire`).
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
    describe_key,
    key_headers,
    overall_state,
)
from skragent.serving.http.long_poll import LongPolls
from skragent.serving.http.response import (
    JSON,
    Response,
    json_response,
    problem_response,
)
from skragent.serving.negotiation import MEDIA_TYPES, choose_form
from skragent.serving.query import is_known_tag, parse_query, parse_wait
from skragent.serving.status import status_response

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

SOCKET: Final = "api"

KEYS_PATH: Final = "/v1/keys"
_ONE_KEY: Final = KEYS_PATH + "/"
_PUBLIC: Final = "/public"
_ANY_KEY: Final = ""  # what a request for the status waits for; no key has this name

METHOD_NOT_ALLOWED: Final = 405
READING: Final = ("GET", "HEAD")  # RFC 9110 §9.3.2

# What a caller is asked to wait for a key: no less than a cold start takes, and no
# more than it may wait for us (`?wait=`).
_MIN_RETRY_SECONDS: Final = 1
_MAX_RETRY_SECONDS: Final = 300

_PUBLIC_FORMS: Final[tuple[Form, ...]] = ("jwk", "pem")


class _Wish(NamedTuple):
    """What is asked of one key."""

    alias: str
    operation: Operation
    version: str | None  # None: any
    accept: str
    if_none_match: str
    gives_bytes: bool  # HEAD gives none


_Name = tuple[str, Operation, "Choice", bool]  # version, and whether it is known


class KeyApi:
    """Answers requests for keys. One for all connections; it has no state of theirs.

    Args:
        keyring: what is held.
        access: who may have it.
        counters: what is counted.
        now: the wall time, for a key's age.
    """

    def __init__(
        self,
        keyring: Keyring,
        access: Access,
        counters: Counters,
        *,
        now: Callable[[], float],
    ) -> None:
        self._keyring = keyring
        self._access = access
        self._counters = counters
        self._now = now
        self._audit = Audit(counters)
        self._lots = LongPolls()  # by key
        self._lasting: dict[str, dict[_Name, Response]] = {}
        self._openapi: Response | None = None
        keyring.subscribe(self._on_change)
        for op, code in (("list", names.CODE_OK), ("get", names.CODE_OK)):
            counters.requests_cell(SOCKET, op, code)

    def change_access(self, access: Access) -> None:
        """Use other rules from now on, also for connections that are open."""
        self._access = access
        self._audit.forget_denials()
        for entry in self._keyring:
            self._on_change(entry.alias)

    def tick(self) -> None:
        """Let answers tell a new age, and the journal what was; called each second."""
        self._audit.tick()
        for alias in list(self._lasting):
            self._retire(alias)

    def handle(self, request: Request, peer: Peer) -> Response | LongPoll:
        """Answer one request, now or later; every refusal is an answer."""
        op, answer = self._route(request.path)
        try:
            if request.method not in READING:
                raise RequestError(
                    f"the method must be {' or '.join(READING)}",
                    code="serve.method",
                    status=METHOD_NOT_ALLOWED,
                )
            if request.has_body:
                raise RequestError("this request has no body", code="serve.body")
            return answer(request, peer)
        except ServeError as error:
            headers = (
                {"Allow": ", ".join(READING)}
                if error.status == METHOD_NOT_ALLOWED
                else {}
            )
            return self._problem(op, error, headers)

    def _route(
        self, path: str
    ) -> tuple[str, Callable[[Request, Peer], Response | LongPoll]]:
        if path.startswith(_ONE_KEY):
            # A key may be called `public`: /v1/keys/public is that key itself.
            if path.endswith(_PUBLIC) and len(path) > len(_ONE_KEY) + len(_PUBLIC) - 1:
                return "public", self._public
            return "get", self._get
        routes = {
            KEYS_PATH: ("list", self._list),
            "/v1/status": ("status", self._status),
            "/v1/openapi.json": ("openapi", self._describe_us),
            "/healthz": ("health", self._health),
        }
        return routes.get(path, ("none", _nothing))

    def _health(self, request: Request, peer: Peer) -> Response:  # noqa: ARG002 - a handler's
        return json_response({"status": "ok"}, cell=self._cell("health", names.CODE_OK))

    def _describe_us(self, request: Request, peer: Peer) -> Response:  # noqa: ARG002 - a handler's
        if self._openapi is None:
            document = resources.files("skragent.serving").joinpath("openapi.json")
            self._openapi = Response(
                HTTPStatus.OK,
                {"Content-Type": JSON},
                document.read_bytes(),
                cell=self._cell("openapi", names.CODE_OK),
                is_lasting=True,
            )
        return self._openapi

    def _list(self, request: Request, peer: Peer) -> Response:
        parse_query(request, ())
        keys = self._describe(self._visible_to(peer), peer)
        return json_response({"keys": keys}, cell=self._cell("list", names.CODE_OK))

    def _status(self, request: Request, peer: Peer) -> Response | LongPoll:
        you = {
            "uid": peer.uid,
            "gid": peer.gid,
            "groups": sorted(peer.groups),
            "pid": peer.pid,
            "unit": peer.unit or None,
            "user_unit": peer.user_unit or None,
        }

        def document() -> dict[str, object]:
            entries = self._visible_to(peer)
            return {
                "version": __version__,
                "state": overall_state(entries),
                "you": you,
                "keys": self._describe(entries, peer),
            }

        wait = parse_wait(parse_query(request, ("wait",)).get("wait"))

        def ask(must: bool) -> Response | None:  # noqa: FBT001 - Parked's
            return status_response(
                document(),
                request.headers.get("if-none-match", ""),
                must=must,
                cell_of=lambda code: self._cell("status", code),
            )

        return self._later("status", _ANY_KEY, wait, ask)

    def _get(self, request: Request, peer: Peer) -> Response | LongPoll:
        return self._one_key(request, peer, request.path[len(_ONE_KEY) :], "get")

    def _public(self, request: Request, peer: Peer) -> Response | LongPoll:
        name = request.path[len(_ONE_KEY) : -len(_PUBLIC)]
        return self._one_key(request, peer, name, "public")

    def _one_key(
        self, request: Request, peer: Peer, name: str, operation: Operation
    ) -> Response | LongPoll:
        alias = urllib.parse.unquote(name)
        self._admit(peer, alias, operation)  # a stranger learns nothing from the query
        query = parse_query(request, ("version", "wait"))
        wait = parse_wait(query.get("wait"))
        wish = _Wish(
            alias=alias,
            operation=operation,
            version=query.get("version"),
            accept=request.headers.get("accept", ""),
            if_none_match=request.headers.get("if-none-match", ""),
            gives_bytes=request.method != "HEAD",
        )

        def ask(must: bool) -> Response | None:  # noqa: FBT001 - Parked's
            return self._key_answer(wish, peer, must=must)

        return self._later(operation, alias, wait, ask)

    def _later(
        self, op: str, what: str, seconds: float, ask: Callable[[bool], Response | None]
    ) -> Response | LongPoll:
        """Answer, or park the question; a refusal later is an answer as well."""

        def ask_safely(must: bool) -> Response | None:  # noqa: FBT001 - Parked's
            try:
                return ask(must)
            except ServeError as error:
                return self._problem(op, error, {})

        return self._lots.now_or_later(what, seconds, ask_safely)

    def _admit(self, peer: Peer, alias: str, operation: Operation) -> Entry:
        entry = self._keyring.get(alias)
        if entry is None or not self._access.allows(peer, alias, operation):
            self._audit.denied(peer, alias, operation, is_configured=entry is not None)
            raise AccessDeniedError("there is no such key for you")
        return entry

    def _key_answer(self, wish: _Wish, peer: Peer, *, must: bool) -> Response | None:
        """Answer what is asked of a key; None while it is worth waiting for."""
        entry = self._admit(peer, wish.alias, wish.operation)
        key = entry.key
        if key is None:
            return self._not_ready(entry, wish.operation) if must else None
        if entry.previous is not None and wish.version == entry.previous.version:
            key = entry.previous
        if wish.version not in (None, key.version):
            if not must:
                return None
            raise AccessDeniedError(
                f"the key is held in version {key.version}, not in that one",
                code="serve.version",
            )
        forms = _forms(key, wish.operation)
        try:
            choice = choose_form(wish.accept, forms)
        except RequestError as error:
            formats = [media for form, media in MEDIA_TYPES.items() if form in forms]
            return self._problem(wish.operation, error, {}, formats=formats)
        is_known = is_known_tag(wish.if_none_match, key.version)
        if is_known and not must:
            return None
        if wish.gives_bytes:
            self._audit.served(peer, key, wish.operation)
        return self._lasting_answer(entry, key, wish.operation, choice, is_known)

    def _lasting_answer(
        self,
        entry: Entry,
        key: HeldKey,
        operation: Operation,
        choice: Choice,
        is_known: bool,  # noqa: FBT001 - a part of the answer's name
    ) -> Response:
        answers = self._lasting.setdefault(key.alias, {})
        name = key.version, operation, choice, is_known
        answer = answers.get(name)
        if answer is None:
            code = names.CODE_NOT_MODIFIED if is_known else names.CODE_OK
            body = _forms(key, operation)[choice.form]
            answer = answers[name] = Response(
                HTTPStatus.NOT_MODIFIED if is_known else HTTPStatus.OK,
                key_headers(entry, key, choice.media_type, self._now()),
                b"" if is_known else body,
                cell=self._cell(operation, code),
                is_lasting=True,
            )
        return answer

    def _not_ready(self, entry: Entry, op: str) -> Response:
        why = f"; the last attempt: {entry.failure_code}" if entry.failure_code else ""
        error = NotReadyError(f"the key is not held: it is {entry.state}{why}")
        left = 0 if entry.retry_at is None else int(entry.retry_at - self._now()) + 1
        if entry.state is KeyState.DROPPED:  # until somebody asks for it by name
            left = _MAX_RETRY_SECONDS
        retry_after = min(max(left, _MIN_RETRY_SECONDS), _MAX_RETRY_SECONDS)
        return self._problem(
            op,
            error,
            {"Retry-After": str(retry_after)},
            state=entry.state.value,
            last_failure=entry.failure_code or None,
        )

    def _visible_to(self, peer: Peer) -> list[Entry]:
        return [entry for entry in self._keyring if self._operations(peer, entry.alias)]

    def _operations(self, peer: Peer, alias: str) -> list[Operation]:
        return [
            operation
            for operation in get_args(Operation)
            if self._access.allows(peer, alias, operation)
        ]

    def _describe(self, entries: list[Entry], peer: Peer) -> list[dict[str, object]]:
        """Tell of keys, and what the caller may do with each."""
        found = []
        for entry in entries:
            operations = self._operations(peer, entry.alias)
            document = describe_key(entry) | {"operations": operations}
            if "get" not in operations:
                document["formats"] = []
            found.append(document)
        return found

    def _on_change(self, alias: str) -> None:
        self._retire(alias)
        self._lots.look(alias)
        self._lots.look(_ANY_KEY)

    def _retire(self, alias: str) -> None:
        for answer in self._lasting.pop(alias, {}).values():
            answer.retire()

    def _problem(
        self, op: str, error: ServeError, headers: Mapping[str, str], **members: object
    ) -> Response:
        cell = self._cell(op, error.code)
        return problem_response(error, cell=cell, headers=headers, **members)

    def _cell(self, op: str, code: str) -> Cell:
        return self._counters.requests_cell(SOCKET, op, code)


def _nothing(request: Request, peer: Peer) -> Response:  # noqa: ARG001 - a handler's
    raise RequestError("there is nothing here", code="serve.not_found", status=404)


def _forms(key: HeldKey, operation: Operation) -> Mapping[Form, bytes | memoryview]:
    """Return what of a key an operation gives away."""
    if operation == "get":
        return key.forms
    if not key.public_jwk:
        raise RequestError(
            "a symmetric key has no public half", code="serve.not_found", status=404
        )
    return {"jwk": key.public_jwk.encode(), "pem": key.public_pem.encode()}
