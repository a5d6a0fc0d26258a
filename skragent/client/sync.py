"""The client for programs without an event loop."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from skragent.client.exchange import (
    DEFAULT_SOCKET,
    NOT_MODIFIED,
    Answer,
    Key,
    Request,
    SkragentError,
    check_timeout,
    exchange,
    key_target,
    keys_of,
    media_type,
    pause_after,
    text_of,
    watch_request,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


class SkragentClient:
    """Asks the agent on its Unix socket.

    `wait` is how many seconds (at most 300) the agent may hold a request for a key
    that it has not got yet.

    Args:
        socket: the path of api.sock.
        timeout: seconds for one request, a wait not counted.

    Raises:
        ValueError: a `timeout`, `wait` or `form` that does not exist; a caller's bug.
    """

    def __init__(
        self, socket: str | os.PathLike[str] = DEFAULT_SOCKET, *, timeout: float = 10.0
    ) -> None:
        self._path = os.fspath(socket)
        self._timeout = check_timeout(timeout)

    def list_keys(self) -> list[dict[str, Any]]:
        """Return what this process may see: name, state, version, type, formats."""
        return keys_of(self._ask(Request("/v1/keys")).document())

    def status(self) -> dict[str, Any]:
        """Return the same, and who the agent thinks this process is."""
        return self._ask(Request("/v1/status")).document()

    def get_key(
        self, name: str, version: str | None = None, *, wait: float = 0.0
    ) -> Key:
        """Fetch a key as a JWK."""
        answer = self._get(name, "jwk", version, wait)
        return Key(name, answer.headers, answer.body)

    def get_pem(
        self, name: str, version: str | None = None, *, wait: float = 0.0
    ) -> str:
        """Fetch a private key as PEM (PKCS#8)."""
        return text_of(self._get(name, "pem", version, wait))

    def get_bytes(
        self, name: str, form: str, version: str | None = None, *, wait: float = 0.0
    ) -> bytes:
        """Fetch a key's bytes: `form` is jwk, pem, der (PKCS#8) or raw (oct)."""
        return self._get(name, form, version, wait).body

    def get_public(self, name: str, form: str = "jwk", *, wait: float = 0.0) -> Key:
        """Fetch the public half of a key: `form` is jwk or pem."""
        target = key_target(name, suffix="/public")
        answer = self._ask(Request(target, media_type(form), wait=wait))
        return Key(name, answer.headers, answer.body)

    def watch(self, name: str, form: str = "jwk") -> Iterator[Key]:
        """Yield the key as soon as there is one, and again at each new version.

        Goes on while the agent is restarted or has no key.

        Raises:
            SkragentError: where the key is not for this process, or not in this form,
                or what answers is no agent.
        """
        version = ""
        while True:
            request = watch_request(name, form, version)
            try:
                answer = self._ask(request)
            except SkragentError as error:
                time.sleep(pause_after(error))  # noqa: TID251 - a workload's wait, not the agent's
                continue
            key = Key(name, answer.headers, answer.body)
            if answer.status != NOT_MODIFIED and key.version != version:
                version = key.version
                yield key

    def _get(self, name: str, form: str, version: str | None, wait: float) -> Answer:
        target = key_target(name, version)
        return self._ask(Request(target, media_type(form), wait=wait))

    def _ask(self, request: Request) -> Answer:
        return exchange(self._path, request, self._timeout)
