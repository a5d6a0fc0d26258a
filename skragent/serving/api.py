"""api.sock: what workloads may ask, and the answers.

    GET /v1/keys                 the keys that this caller may have
    GET /v1/keys/NAME[?version=] one key, in the form of Accept
    GET /healthz                 200 while we serve

A key that does not exist and one that the caller may not have are the same answer.
Answers with key bytes are made once per key and form, and retired when the keyring
says that the key changed; until then connections send them again (see `wire`).
"""

from __future__ import annotations

import urllib.parse
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from skragent.errors import AccessDeniedError, NotReadyError, RequestError, ServeError
from skragent.observe import Event, log, names
from skragent.serving.answer import Answer, json_answer, problem_answer
from skragent.serving.negotiation import MEDIA_TYPES, choose_form

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from skragent.keyring import Entry, HeldKey, Keyring
    from skragent.observe import Cell, Counters
    from skragent.serving.access import Access
    from skragent.serving.negotiation import Choice
    from skragent.serving.peers import Peer
    from skragent.serving.request import Request

SOCKET: Final = "api"

KEYS_PATH: Final = "/v1/keys"
_ONE_KEY: Final = KEYS_PATH + "/"

METHOD_NOT_ALLOWED: Final = 405

# What a key that was never released asks its callers to wait: a cold start is faster.
RETRY_AFTER_SECONDS: Final = 1

# One line in the journal for each pair of caller and key, and no more than these.
_DENIALS_LOGGED: Final = 1024


class KeyApi:
    """Answers requests for keys. One for all connections; it has no state of theirs."""

    def __init__(self, keyring: Keyring, access: Access, counters: Counters) -> None:
        self._keyring = keyring
        self._access = access
        self._counters = counters
        self._lasting: dict[str, dict[tuple[Choice, bool], Answer]] = {}
        self._denials: set[tuple[int, str]] = set()
        keyring.subscribe(self._retire)
        for op, code in (("list", names.CODE_OK), ("get", names.CODE_OK)):
            counters.requests_cell(SOCKET, op, code)

    def change_access(self, access: Access) -> None:
        """Use other rules from now on, also for connections that are open."""
        self._access = access
        self._denials.clear()
        for alias in list(self._lasting):
            self._retire(alias)

    def handle(self, request: Request, peer: Peer) -> Answer:
        """Answer one request; every refusal is an answer."""
        op, answer = self._route(request.path)
        try:
            if request.method != "GET":
                raise RequestError(
                    "only GET is served here",
                    code="serve.method",
                    status=METHOD_NOT_ALLOWED,
                )
            return answer(request, peer)
        except ServeError as error:
            headers = {"Allow": "GET"} if error.status == METHOD_NOT_ALLOWED else {}
            return self._problem(op, error, headers)

    def _route(self, path: str) -> tuple[str, Callable[[Request, Peer], Answer]]:
        if path.startswith(_ONE_KEY):
            return "get", self._get
        if path == KEYS_PATH:
            return "list", self._list
        if path == "/healthz":
            return "health", self._health
        return "none", _nothing

    def _health(self, request: Request, peer: Peer) -> Answer:  # noqa: ARG002 - a handler's
        return json_answer({"status": "ok"}, cell=self._cell("health", names.CODE_OK))

    def _list(self, request: Request, peer: Peer) -> Answer:
        _query(request, ())
        keys = [
            _describe(entry)
            for entry in self._keyring
            if self._access.allows(peer, entry.alias)
        ]
        return json_answer({"keys": keys}, cell=self._cell("list", names.CODE_OK))

    def _get(self, request: Request, peer: Peer) -> Answer:
        alias = urllib.parse.unquote(request.path[len(_ONE_KEY) :])
        entry = self._keyring.get(alias)
        if entry is None or not self._access.allows(peer, alias):
            self._note_denial(peer, entry)
            raise AccessDeniedError("there is no such key for you")
        wanted = _query(request, ("version",)).get("version", "")
        key = entry.key
        if key is None:
            return self._not_ready(entry)
        if wanted not in ("", key.version):
            raise AccessDeniedError(
                "this key is held in another version", code="serve.version"
            )
        try:
            choice = choose_form(request.headers.get("accept", ""), key.forms)
        except RequestError as error:
            formats = _formats(key)
            return self._problem("get", error, {}, formats=formats)
        matches = _matches(request.headers.get("if-none-match", ""), key.version)
        return self._lasting_answer(entry, key, choice, is_known=matches)

    def _lasting_answer(
        self, entry: Entry, key: HeldKey, choice: Choice, *, is_known: bool
    ) -> Answer:
        answers = self._lasting.setdefault(key.alias, {})
        answer = answers.get((choice, is_known))
        if answer is None:
            code = names.CODE_NOT_MODIFIED if is_known else names.CODE_OK
            answer = answers[choice, is_known] = Answer(
                HTTPStatus.NOT_MODIFIED if is_known else HTTPStatus.OK,
                _key_headers(entry, key, choice),
                b"" if is_known else key.forms[choice.form],
                cell=self._cell("get", code),
                is_lasting=True,
            )
        return answer

    def _not_ready(self, entry: Entry) -> Answer:
        why = f"; the last attempt: {entry.failure_code}" if entry.failure_code else ""
        error = NotReadyError(f"the key is not held: it is {entry.state}{why}")
        return self._problem(
            "get",
            error,
            {"Retry-After": str(RETRY_AFTER_SECONDS)},
            state=entry.state.value,
            last_failure=entry.failure_code or None,
        )

    def _note_denial(self, peer: Peer, entry: Entry | None) -> None:
        self._counters.denied[names.DENIED_NO_RULE] += 1
        if entry is None:
            return
        who = (peer.uid, entry.alias)
        if who not in self._denials and len(self._denials) < _DENIALS_LOGGED:
            self._denials.add(who)
            log(
                Event.ACCESS_DENIED,
                f"uid {peer.uid} asked for key {entry.alias}, and no rule allows it",
                key=entry.alias,
                uid=peer.uid,
                gid=peer.gid,
                pid=peer.pid,
            )

    def _retire(self, alias: str) -> None:
        for answer in self._lasting.pop(alias, {}).values():
            answer.retire()

    def _problem(
        self, op: str, error: ServeError, headers: Mapping[str, str], **members: object
    ) -> Answer:
        cell = self._cell(op, error.code)
        return problem_answer(error, cell=cell, headers=headers, **members)

    def _cell(self, op: str, code: str) -> Cell:
        return self._counters.requests_cell(SOCKET, op, code)


def _nothing(request: Request, peer: Peer) -> Answer:  # noqa: ARG001 - a handler's
    raise RequestError("there is nothing here", code="serve.not_found", status=404)


def _describe(entry: Entry) -> dict[str, object]:
    key = entry.key
    return {
        "name": entry.alias,
        "state": entry.state.value,
        "version": key.version if key else None,
        "kty": key.kty if key else None,
        "fingerprint": (key.fingerprint or None) if key else None,
        "formats": _formats(key) if key else [],
    }


def _formats(key: HeldKey) -> list[str]:
    return [media for form, media in MEDIA_TYPES.items() if form in key.forms]


def _key_headers(entry: Entry, key: HeldKey, choice: Choice) -> dict[str, str]:
    return {
        "Content-Type": choice.media_type,
        "Cache-Control": "no-store",
        "ETag": f'"{key.version}"',
        "Vary": "Accept",
        "Skragent-State": entry.state.value,
    }


def _matches(if_none_match: str, version: str) -> bool:
    """Compare as RFC 9110 §13.1.2 does: a list of tags, weak or not, or a star."""
    if not if_none_match:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return f'"{version}"' in tags or tags == ["*"]


def _query(request: Request, known: tuple[str, ...]) -> dict[str, str]:
    """Read the query; a parameter that would be ignored is refused."""
    try:
        pairs = urllib.parse.parse_qsl(
            request.query, keep_blank_values=True, strict_parsing=bool(request.query)
        )
    except ValueError as error:
        raise RequestError("the query does not parse") from error
    found = dict(pairs)
    if len(found) != len(pairs) or not found.keys() <= set(known):
        raise RequestError("the query has a parameter that is unknown or given twice")
    return found
