"""The client for programs without an event loop."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from skragent.client.exchange import (
    DEFAULT_SOCKET,
    NOT_MODIFIED,
    Key,
    Request,
    Response,
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
    """Client of the agent's Unix socket.

    `wait` is the time in seconds (at most 300) for which the agent keeps a request
    pending if it does not hold the key yet.

    Args:
        socket: the path of api.sock.
        timeout: seconds for one request, without its wait.

    Raises:
        ValueError: `timeout`, `wait` or `form` is out of range.
    """

    def __init__(
        self, socket: str | os.PathLike[str] = DEFAULT_SOCKET, *, timeout: float = 10.0
    ) -> None:
        self._path = os.fspath(socket)
        self._timeout = check_timeout(timeout)

    def list_keys(self) -> list[dict[str, Any]]:
        """Return the keys of this process: name, state, version, type, formats."""
        return keys_of(self._ask(Request("/v1/keys")).document())

    def status(self) -> dict[str, Any]:
        """Return the same, and the identity of this process as the agent sees it."""
        return self._ask(Request("/v1/status")).document()

    def get_key(
        self, name: str, version: str | None = None, *, wait: float = 0.0
    ) -> Key:
        """Fetch a key as a JWK."""
        response = self._get(name, "jwk", version, wait)
        return Key(name, response.headers, response.body)

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
        response = self._ask(Request(target, media_type(form), wait=wait))
        return Key(name, response.headers, response.body)

    def watch(self, name: str, form: str = "jwk") -> Iterator[Key]:
        """Yield the key as soon as the agent holds it, and again at each new version.

        Continues while the agent restarts or does not hold the key.

        Raises:
            SkragentError: a permanent error: no rule allows the key to this process,
                it is not available in this form, or the response is not an agent's.
        """
        version = ""
        while True:
            request = watch_request(name, form, version)
            try:
                response = self._ask(request)
            except SkragentError as error:
                time.sleep(pause_after(error))  # noqa: TID251 - a workload, not the agent
                continue
            key = Key(name, response.headers, response.body)
            if response.status != NOT_MODIFIED and key.version != version:
                version = key.version
                yield key

    def _get(self, name: str, form: str, version: str | None, wait: float) -> Response:
        target = key_target(name, version)
        return self._ask(Request(target, media_type(form), wait=wait))

    def _ask(self, request: Request) -> Response:
        return exchange(self._path, request, self._timeout)
