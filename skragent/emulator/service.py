"""What every emulated service is: a request in, an answer out, and ways to spoil it.

Services know nothing of sockets: `front.py` carries requests to them. So a test can
ask one directly, and every answer passes through one place where it can be changed.
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
    target: str  # path and query as they stood on the request line
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def path(self) -> str:
        """The path, decoded; repeated slashes are kept."""
        return urllib.parse.unquote(self.target.partition("?")[0])

    @property
    def query(self) -> list[tuple[str, str]]:
        """The parameters in their order, repeated ones too."""
        text = self.target.partition("?")[2]
        return urllib.parse.parse_qsl(text, keep_blank_values=True)

    def parameter(self, name: str) -> str:
        """Give a parameter's first value, or an empty string."""
        return next((value for key, value in self.query if key == name), "")

    def json_object(self, code: str) -> dict[str, Any]:
        """Parse the body.

        Raises:
            RefusalError: 400 with `code` when it is not a JSON object.
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
    """One HTTP answer; a hook may change any member of it."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    # What becomes of the body: `cut` sends half of it and closes the connection as
    # usual, `reset` sends half of it and breaks the connection. For the others, which
    # `measure` completes, see `hostile_delivery`.
    delivery: Literal["whole", "cut", "reset", "drip", "flood", "bomb"] = "whole"
    measure: str | int = ""  # the part that drips, or the bytes

    @classmethod
    def of_json(
        cls, status: int, value: object, headers: dict[str, str] | None = None
    ) -> Response:
        """Answer with a JSON document."""
        return cls(
            status, dump_json(value), {"Content-Type": JSON_TYPE} | (headers or {})
        )

    @classmethod
    def of_text(cls, text: str) -> Response:
        """Answer 200 with plain text."""
        return cls(200, text.encode(), {"Content-Type": "text/plain; charset=utf-8"})


ResponseHook = Callable[[Request, Response], Awaitable[Response]]
Mutation = Callable[[Any], Any]
Guard = Callable[[Request], None]  # raises RefusalError


class RefusalError(Exception):
    """A request that is answered with an error.

    Args:
        status: the HTTP status.
        code: the service's own code, such as `InvalidParameter`.
        message: what it tells the client.
        inner: the code of Key Vault's `innererror`, where there is one.
        headers: extra headers of the answer.
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

    `before_response` sees every answer and may change it, replace it, wait or raise.
    `mutate` changes one inner value on its way into an answer, such as a token's
    claims before they are signed; `steps` names what a service lets one change.
    `guard` and `hook` are for faults, of which several hold at once: each has a name,
    and takes the place of the one before it that had the same.
    """

    name: str
    steps: tuple[str, ...] = ()
    # The code and the message of a status, where they are not HTTP's own phrase.
    words: Mapping[int, tuple[str, str]] = {}

    def __init__(self) -> None:
        self.before_response: ResponseHook | None = None
        self._mutations: dict[str, dict[str, Mutation]] = {}
        self._guards: dict[str, Guard] = {}
        self._hooks: dict[str, ResponseHook] = {}

    def mutate(self, step: str, mutation: Mutation, name: str = "") -> None:
        """Put every value of `step` through `mutation` from now on."""
        if step not in self.steps:
            raise ValueError(f"{self.name} has no step {step!r}; it has {self.steps}")
        self._mutations.setdefault(step, {})[name] = mutation

    def guard(self, name: str, guard: Guard) -> None:
        """Have each request judged before anything else is done about it."""
        self._guards[name] = guard

    def hook(self, name: str, hook: ResponseHook) -> None:
        """Have each answer changed, or waited for, on its way out."""
        self._hooks[name] = hook

    def clear_hooks(self) -> None:
        """Forget all mutations, guards and hooks."""
        self._mutations.clear()
        self._guards.clear()
        self._hooks.clear()
        self.before_response = None

    async def serve(self, request: Request) -> Response:
        """Answer a request, refusals and hooks included."""
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

    def common_headers(self, request: Request) -> dict[str, str]:  # noqa: ARG002 - for who overrides it
        """Give the headers that every answer to this request carries."""
        return {}

    @abstractmethod
    def respond(self, request: Request) -> Response:
        """Answer a request or raise `RefusalError`."""

    def refusal_of(self, request: Request, status: int) -> RefusalError:  # noqa: ARG002 - for who overrides it
        """Give what this service says with a status, whatever the request was."""
        try:
            phrase = HTTPStatus(status).phrase
        except ValueError:
            phrase = "Unknown Error"
        code, message = self.words.get(status, (phrase.replace(" ", ""), f"{phrase}."))
        return RefusalError(status, code, message)

    @abstractmethod
    def refuse(self, refusal: RefusalError) -> Response:
        """Put a refusal into this service's envelope."""

    def _through(self, step: str, value: Any) -> Any:  # noqa: ANN401 - any value of a step
        for mutation in self._mutations.get(step, {}).values():
            value = mutation(value)
        return value
