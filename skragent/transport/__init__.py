"""Bounded HTTP: each exchange runs once, with one deadline and one limit of bytes.

Every exchange of the releaser with the network uses `adapter.BoundedAdapter`, including
those of azure-identity and azure-keyvault-keys. The agent schedules retries.
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
