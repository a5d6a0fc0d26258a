"""Bounded HTTP: one request, tried once, with limits on time and bytes.

Used for IMDS and MAA. Follows no redirect, retries nothing, and lets no exception of
requests or urllib3 out. Retries belong to the agent's supervisor, nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An answer, read whole. `headers` are looked up in any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class HttpClient:
    """Asks over kept-alive connections.

    Args:
        timeout_seconds: for connecting and for the whole answer, each.
        ca_file: PEM of the roots to trust for TLS; empty for the system's.
        use_proxies: obey HTTPS_PROXY and friends.
    """

    def __init__(
        self, *, timeout_seconds: float, ca_file: str = "", use_proxies: bool
    ) -> None:
        raise NotImplementedError

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        max_bytes: int,
    ) -> HttpResponse:
        """Ask once; gives the answer whatever its status, but for redirects.

        Raises:
            TransportError: transport.timeout, .refused, .dns, .tls, .reset,
                .oversized, .unexpected
        """
        raise NotImplementedError

    def connect(self, origin: str) -> None:
        """Open a connection ahead of time; an error is left for `request` to find."""
        raise NotImplementedError

    def close(self) -> None:
        """Close every connection."""
        raise NotImplementedError


def raise_for_status(response: HttpResponse, what: str) -> None:
    """Turn 429, 503 and other 5xx into errors; gives back on every other status.

    Raises:
        TransportError: transport.throttled, .server, with `retry_after`
    """
    raise NotImplementedError
