"""Keys for a workload: the standard library alone, and cheap to import.

    from skragent.client import SkragentClient
    pem = SkragentClient().get_pem("db")

    from skragent.client import AsyncSkragentClient
    async for key in AsyncSkragentClient().watch("db"):
        ...

One request is one connection: nothing stays open, and fork and threads need no care.
Everything that can go wrong is a `SkragentError` with the agent's stable `code`.
Nothing of this directory needs the rest of skragent: it can be copied, as
`skragent/client`.
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
    """Import asyncio's client for those who ask for it: asyncio costs 60 ms."""
    if name == "AsyncSkragentClient":
        from skragent.client.asynchronous import (  # noqa: PLC0415 - see above
            AsyncSkragentClient,
        )

        return AsyncSkragentClient
    raise AttributeError(name)
