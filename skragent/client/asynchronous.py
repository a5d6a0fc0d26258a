"""The client for programs on asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any

from skragent.client.exchange import (
    DEFAULT_SOCKET,
    NOT_MODIFIED,
    READ_BYTES,
    Key,
    Request,
    Response,
    SkragentError,
    check_timeout,
    key_target,
    keys_of,
    media_type,
    no_response,
    pause_after,
    text_of,
    unreachable,
    watch_request,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class AsyncSkragentClient:
    """SkragentClient for asyncio. Cancelling a call closes its connection."""

    def __init__(
        self, socket: str | os.PathLike[str] = DEFAULT_SOCKET, *, timeout: float = 10.0
    ) -> None:
        self._path = os.fspath(socket)
        self._timeout = check_timeout(timeout)

    async def list_keys(self) -> list[dict[str, Any]]:
        """See SkragentClient."""
        return keys_of((await self._ask(Request("/v1/keys"))).document())

    async def status(self) -> dict[str, Any]:
        """See SkragentClient."""
        return (await self._ask(Request("/v1/status"))).document()

    async def get_key(
        self, name: str, version: str | None = None, *, wait: float = 0.0
    ) -> Key:
        """See SkragentClient."""
        response = await self._get(name, "jwk", version, wait)
        return Key(name, response.headers, response.body)

    async def get_pem(
        self, name: str, version: str | None = None, *, wait: float = 0.0
    ) -> str:
        """See SkragentClient."""
        return text_of(await self._get(name, "pem", version, wait))

    async def get_bytes(
        self, name: str, form: str, version: str | None = None, *, wait: float = 0.0
    ) -> bytes:
        """See SkragentClient."""
        return (await self._get(name, form, version, wait)).body

    async def get_public(
        self, name: str, form: str = "jwk", *, wait: float = 0.0
    ) -> Key:
        """See SkragentClient."""
        target = key_target(name, suffix="/public")
        response = await self._ask(Request(target, media_type(form), wait=wait))
        return Key(name, response.headers, response.body)

    async def watch(self, name: str, form: str = "jwk") -> AsyncIterator[Key]:
        """See SkragentClient."""
        version = ""
        while True:
            request = watch_request(name, form, version)
            try:
                response = await self._ask(request)
            except SkragentError as error:
                await asyncio.sleep(pause_after(error))
                continue
            key = Key(name, response.headers, response.body)
            if response.status != NOT_MODIFIED and key.version != version:
                version = key.version
                yield key

    async def _get(
        self, name: str, form: str, version: str | None, wait: float
    ) -> Response:
        target = key_target(name, version)
        return await self._ask(Request(target, media_type(form), wait=wait))

    async def _ask(self, request: Request) -> Response:
        response, seconds = Response(), self._timeout + request.may_take
        try:
            async with asyncio.timeout(seconds):
                await self._exchange(request, response)
        except TimeoutError as error:
            raise no_response(self._path, seconds) from error
        except OSError as error:
            raise unreachable(self._path, error) from error
        return response.judged(request)

    async def _exchange(self, request: Request, response: Response) -> None:
        # asyncio's streams lose a response that comes before the whole request is sent.
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(0)
            await loop.sock_connect(connection, self._path)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                await loop.sock_sendall(connection, request.raw)
            while not response.feed(await loop.sock_recv(connection, READ_BYTES)):
                pass
