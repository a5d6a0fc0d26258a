"""Bounded HTTP: each exchange is tried once, with one deadline and one limit of bytes.

Every exchange of the releaser with the network goes through `adapter.BoundedAdapter`:
that of our own client and those of azure-identity and azure-keyvault-keys. Retries
belong to the agent's scheduler.
"""

from __future__ import annotations

from skragent.transport.client import (
    HttpClient,
    HttpResponse,
    find_retry_after,
    imds_hint,
    parse_retry_after,
    raise_for_status,
)

__all__ = [
    "HttpClient",
    "HttpResponse",
    "find_retry_after",
    "imds_hint",
    "parse_retry_after",
    "raise_for_status",
]
