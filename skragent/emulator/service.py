"""The base of every emulated service: request, response, refusal, and hooks.

Services do not use sockets; `http_server.py` passes requests to them. So tests can
call a service directly, and every response passes through one place with hooks.
"""

from __future__ import annotations

import json
import urllib.parse
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal

from skragent.emulator.encoding import dump_json

JSON_TYPE = "application/json; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request. Header names are in lower case."""

    method: str
    target: str  # path and query, as on the request line
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def path(self) -> str:
        """The decoded path; repeated slashes are kept."""
        return urllib.parse.unquote(self.target.partition("?")[0])

    @property
    def query(self) -> list[tuple[str, str]]:
        """The query parameters in order, with repeated parameters."""
        text = self.target.partition("?")[2]
        return urllib.parse.parse_qsl(text, keep_blank_values=True)

    def parameter(self, name: str) -> str:
        """Return a parameter's first value, or an empty string."""
        return next((value for key, value in self.query if key == name), "")

    def json_object(self, code: str) -> dict[str, Any]:
        """Parse the body as a JSON object.

        Raises:
            RefusalError: 400 with `code` if the body is not a JSON object.
        """
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise RefusalError(400, code, "The request body is not JSON.") from error
        if not isinstance(value, dict):
            raise RefusalError(400, code, "The request body is not a JSON object.")
        return value


@dataclass(slots=True)
class Response:
    """An HTTP response; a hook may change its members."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    # How the body is sent: `cut` sends half of it and closes the connection; `reset`
    # sends half of it and resets the connection. `hostile_responses` implements the
    # other values, with `measure` as their argument.
    delivery: Literal["whole", "cut", "reset", "drip", "flood", "bomb"] = "whole"
    measure: str | int = ""  # for `drip` the part, otherwise the number of bytes

    @classmethod
    def of_json(
        cls, status: int, value: object, headers: dict[str, str] | None = None
    ) -> Response:
        """Return a response with a JSON document."""
        return cls(
            status, dump_json(value), {"Content-Type": JSON_TYPE} | (headers or {})
        )

    @classmethod
    def of_text(cls, text: str) -> Response:
        """Return a response with status 200 and plain text."""
        return cls(200, text.encode(), {"Content-Type": "text/plain; charset=utf-8"})


ResponseHook = Callable[[Request, Response], Awaitable[Response]]
Mutation = Callable[[Any], Any]
Guard = Callable[[Request], None]  # raises RefusalError


class RefusalError(Exception):
    """A request that is answered with an error response.

    Args:
        status: the HTTP status.
        code: the service's own code, such as `InvalidParameter`.
        message: the text for the client.
        inner: the code of Key Vault's `innererror`, if there is one.
        headers: additional headers of the response.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        inner: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.inner = inner
        self.headers = headers or {}


class Service(ABC):
    """One emulated service.

    `before_response` receives every response and may change it, replace it, wait or
    raise. `mutate` changes one inner value of a response, such as a token's claims
    before the token is signed; `steps` lists the values that a service lets callers
    change. Faults use `guard` and `hook`. Several can be active at once: each has a
    name and replaces the previous one with the same name.
    """

    name: str
    steps: tuple[str, ...] = ()
    # The code and message for a status; the default is the reason phrase of HTTP.
    words: Mapping[int, tuple[str, str]] = {}

    def __init__(self) -> None:
        self.before_response: ResponseHook | None = None
        self._mutations: dict[str, dict[str, Mutation]] = {}
        self._guards: dict[str, Guard] = {}
        self._hooks: dict[str, ResponseHook] = {}

    def mutate(self, step: str, mutation: Mutation, name: str = "") -> None:
        """Apply `mutation` to every later value of `step`."""
        if step not in self.steps:
            raise ValueError(f"{self.name} has no step {step!r}; it has {self.steps}")
        self._mutations.setdefault(step, {})[name] = mutation

    def guard(self, name: str, guard: Guard) -> None:
        """Call `guard` with each request before the service handles it."""
        self._guards[name] = guard

    def hook(self, name: str, hook: ResponseHook) -> None:
        """Call `hook` with each response; it may change or delay the response."""
        self._hooks[name] = hook

    def clear_hooks(self) -> None:
        """Remove all mutations, guards and hooks."""
        self._mutations.clear()
        self._guards.clear()
        self._hooks.clear()
        self.before_response = None

    async def serve(self, request: Request) -> Response:
        """Return the response to a request, after refusals and hooks."""
        try:
            for guard in self._guards.values():
                guard(request)
            response = self.respond(request)
        except RefusalError as refusal:
            response = self.refuse(refusal)
        response.headers = self.common_headers(request) | response.headers
        hooks = [*self._hooks.values()]
        if self.before_response is not None:
            hooks.append(self.before_response)
        for hook in hooks:
            response = await hook(request, response)
        return response

    def common_headers(self, request: Request) -> dict[str, str]:  # noqa: ARG002 - for subclasses
        """Return the headers of every response to this request."""
        return {}

    @abstractmethod
    def respond(self, request: Request) -> Response:
        """Return the response to a request, or raise `RefusalError`."""

    def refusal_of(self, request: Request, status: int) -> RefusalError:  # noqa: ARG002 - for subclasses
        """Return this service's refusal with a given status."""
        try:
            phrase = HTTPStatus(status).phrase
        except ValueError:
            phrase = "Unknown Error"
        code, message = self.words.get(status, (phrase.replace(" ", ""), f"{phrase}."))
        return RefusalError(status, code, message)

    @abstractmethod
    def refuse(self, refusal: RefusalError) -> Response:
        """Encode a refusal in this service's error format."""

    def _mutated(self, step: str, value: Any) -> Any:  # noqa: ANN401 - any value of a step
        for mutation in self._mutations.get(step, {}).values():
            value = mutation(value)
        return value
