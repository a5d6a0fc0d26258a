"""The client for programs on asyncio."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from skragent.client.exchange import (
    DEFAULT_SOCKET,
    NOT_MODIFIED,
    READ_BYTES,
    Answer,
    Key,
    Request,
    SkragentError,
    key_target,
    media_type,
    no_answer,
    pause_after,
    unreachable,
    watch_request,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class AsyncSkragentClient:
    """The same for asyncio. Cancelling a call closes its connection."""

    def __init__(self, socket: str = DEFAULT_SOCKET, *, timeout: float = 10.0) -> None:
        self._path = socket
        self._timeout = timeout

    async def list_keys(self) -> list[dict[str, Any]]:
        """See SkragentClient."""
        answer = await self._ask(Request("/v1/keys"))
        keys: list[dict[str, Any]] = json.loads(answer.body)["keys"]
        return keys

    async def status(self) -> dict[str, Any]:
        """See SkragentClient."""
        answer = await self._ask(Request("/v1/status"))
        status: dict[str, Any] = json.loads(answer.body)
        return status

    async def get_key(
        self, name: str, version: str | None = None, *, wait: float = 0.0
    ) -> Key:
        """See SkragentClient."""
        return await self._get(name, "jwk", version, wait)

    async def get_pem(
        self, name: str, version: str | None = None, *, wait: float = 0.0
    ) -> str:
        """See SkragentClient."""
        return (await self._get(name, "pem", version, wait)).raw.decode("ascii")

    async def get_bytes(
        self, name: str, form: str, version: str | None = None, *, wait: float = 0.0
    ) -> bytes:
        """See SkragentClient."""
        return (await self._get(name, form, version, wait)).raw

    async def get_public(
        self, name: str, form: str = "jwk", *, wait: float = 0.0
    ) -> Key:
        """See SkragentClient."""
        target = key_target(name, suffix="/public")
        answer = await self._ask(Request(target, media_type(form), wait=wait))
        return Key(name, answer.headers, answer.body)

    async def watch(self, name: str, form: str = "jwk") -> AsyncIterator[Key]:
        """See SkragentClient."""
        version = ""
        while True:
            request = watch_request(name, form, version)
            try:
                answer = await self._ask(request)
            except SkragentError as error:
                await asyncio.sleep(pause_after(error))
                continue
            key = Key(name, answer.headers, answer.body)
            if answer.status != NOT_MODIFIED and key.version != version:
                version = key.version
                yield key

    async def _get(self, name: str, form: str, version: str | None, wait: float) -> Key:
        target = key_target(name, version)
        answer = await self._ask(Request(target, media_type(form), wait=wait))
        return Key(name, answer.headers, answer.body)

    async def _ask(self, request: Request) -> Answer:
        answer, seconds = Answer(), self._timeout + request.wait
        try:
            async with asyncio.timeout(seconds):
                reader, writer = await asyncio.open_unix_connection(self._path)
                try:
                    writer.write(request.raw)
                    while not answer.feed(await reader.read(READ_BYTES)):
                        pass
                finally:
                    writer.close()
        except TimeoutError as error:
            raise no_answer(seconds) from error
        except OSError as error:
            raise unreachable(self._path, error) from error
        return answer.judged()
