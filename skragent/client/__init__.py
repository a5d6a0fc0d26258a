"""Client for workloads: only the standard library, and fast to import.

    from skragent.client import SkragentClient
    pem = SkragentClient().get_pem("db")

    from skragent.client import AsyncSkragentClient
    async for key in AsyncSkragentClient().watch("db"):
        ...

Each request has its own connection. So the client is safe with fork and threads. Every
error is a `SkragentError` with the agent's stable `code`. The directory needs nothing
else of skragent: it can be copied as `skragent/client`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skragent.client.exchange import DEFAULT_SOCKET, Key, SkragentError
from skragent.client.sync import SkragentClient

if TYPE_CHECKING:
    from skragent.client.asynchronous import AsyncSkragentClient

__all__ = [
    "DEFAULT_SOCKET",
    "AsyncSkragentClient",
    "Key",
    "SkragentClient",
    "SkragentError",
]


def __getattr__(name: str) -> object:
    """Import the client for asyncio at its first use: asyncio takes 60 ms."""
    if name == "AsyncSkragentClient":
        from skragent.client.asynchronous import (  # noqa: PLC0415 - see above
            AsyncSkragentClient,
        )

        return AsyncSkragentClient
    raise AttributeError(name)
