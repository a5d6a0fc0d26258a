"""One request, tried once. Used for IMDS and MAA.

Follows no redirect, retries nothing, keeps no cookies, reads no netrc. What an answer
means is the caller's to judge.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Final, Self

import requests
import requests.utils

from skragent.errors import AgentError, ConfigError, TransportError
from skragent.transport.adapter import BoundedAdapter
from skragent.transport.exchange import running
from skragent.transport.failures import translate

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

_MAX_RETRY_AFTER_DIGITS: Final = 9  # thirty years are enough

# IMDS answers 410 while it is being updated; it is back within that time, says
# Microsoft's guidance for its clients (learn.microsoft.com: how managed identities for
# Azure resources work with VMs, "Retry guidance").
IMDS_UPDATE_SECONDS: Final = 70.0


# What skragent-errors(7) says of HTTP 429 and of every 5xx.
THROTTLED_HINT: Final = (
    "Passes by itself: the service has too many requests now, and the agent waits"
    " longer after each one."
)
SERVER_HINT: Final = (
    "Passes by itself: the service cannot answer now. If it stays, look at Azure's"
    " service health."
)


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An answer, read whole. `headers` are looked up in any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)  # may hold a token


class HttpClient:
    """Asks over kept-alive connections; a context manager that closes them.

    Args:
        timeout_seconds: for each exchange, from name resolution to the last byte.
        ca_file: PEM of the roots to trust for TLS; empty for the system's.
        use_proxies: obey HTTPS_PROXY and friends. No other variable is obeyed.
    """

    def __init__(
        self, *, timeout_seconds: float, ca_file: str = "", use_proxies: bool
    ) -> None:
        self._use_proxies = use_proxies
        self._adapter = BoundedAdapter(timeout_seconds=timeout_seconds, ca_file=ca_file)
        self._session = self.new_session()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def skipped_roots(self) -> tuple[str, ...]:
        """Tell which certificates of the TLS roots are skipped, so far as known."""
        return self._adapter.skipped_roots

    @property
    def dates(self) -> Mapping[str, str]:
        """Return what each origin last said in `Date`, by origin."""
        return self._adapter.dates

    def close(self) -> None:
        """Close every connection."""
        self._session.close()

    def new_session(self) -> requests.Session:
        """Give a library that works with requests a session over our connections."""
        session = requests.Session()
        # The environment has no say: neither netrc's passwords nor other TLS roots.
        session.trust_env = False
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        session.mount("http://", self._adapter)
        session.mount("https://", self._adapter)
        return session

    def connect(self, origin: str) -> None:
        """Open a connection ahead of time, for the next request to `origin`.

        An error is none yet: the request will meet it again and say so; but for
        silence, which would have to be waited for a second time. Does nothing where a
        proxy stands between.

        Raises:
            TransportError: transport.timeout
        """
        if self._proxies(origin):
            return
        try:
            self._adapter.open_ahead(origin)
        except TransportError as error:
            if error.code == "transport.timeout":
                raise
        except ConfigError:
            return

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
            ConfigError: the file of TLS roots cannot be used.
        """
        with running(self._adapter.exchange(url, max_bytes)) as exchange:
            try:
                response = self._session.request(
                    method,
                    url,
                    headers=headers,
                    data=body,
                    proxies=self._proxies(url),
                    allow_redirects=False,
                )
            except AgentError:
                raise
            except Exception as error:  # of requests itself: a URL that is none, say
                raise translate(error, exchange.where) from error
        return HttpResponse(response.status_code, response.headers, response.content)

    def _proxies(self, url: str) -> dict[str, str]:
        return requests.utils.get_environ_proxies(url) if self._use_proxies else {}


def raise_for_status(response: HttpResponse, what: str) -> None:
    """Turn 429 and every 5xx into errors; gives back on any other status.

    Args:
        response: the answer.
        what: who answered, for the error's prose.

    Raises:
        TransportError: transport.throttled or .server, with `retry_after` where the
            answer says it in seconds. (An HTTP-date would need a clock.)
    """
    if response.status == HTTPStatus.TOO_MANY_REQUESTS:
        code, said = "transport.throttled", "asks us to slow down"
        hint = THROTTLED_HINT
    elif response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        code, said = "transport.server", "cannot answer now"
        hint = SERVER_HINT
    else:
        return
    raise TransportError(
        f"{what} {said} (HTTP {response.status})",
        code=code,
        hint=hint,
        retry_after=parse_retry_after(response.headers.get("Retry-After", "")),
    )


def parse_retry_after(text: str) -> float | None:
    """Read a Retry-After in seconds; None for anything else."""
    text = text.strip()
    if text.isascii() and text.isdigit() and len(text) <= _MAX_RETRY_AFTER_DIGITS:
        return float(text)
    return None


def imds_hint(status: int) -> str:
    """Say what to do about a refusal of IMDS that passes by itself; empty: it does not.

    Statuses: Microsoft's guidance for its clients, as `IMDS_UPDATE_SECONDS`.
    """
    if status == HTTPStatus.GONE:
        return (
            "Passes by itself: IMDS is being updated, which takes up to"
            f" {IMDS_UPDATE_SECONDS:.0f} s."
        )
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return (
            "Passes by itself: IMDS answers a few requests a second for the whole VM."
            " If it stays, find the program on this VM that asks it all the time."
        )
    if status == HTTPStatus.NOT_FOUND:
        return (
            "Passes by itself: IMDS does not have this path yet, early in the VM's"
            " life. If it stays, restart the VM."
        )
    if (
        status >= HTTPStatus.INTERNAL_SERVER_ERROR
        or status == HTTPStatus.REQUEST_TIMEOUT
    ):
        return (
            "Passes by itself: IMDS cannot answer now. If it stays, restart the VM, and"
            " look at Azure's service health."
        )
    return ""


def find_retry_after(status: int, headers: Mapping[str, str]) -> float | None:
    """Tell when IMDS or Entra ID want to be asked again; None: they do not say.

    Only IMDS ever answers 410, and by that says it too.
    """
    said = parse_retry_after(headers.get("Retry-After", ""))
    return said or (IMDS_UPDATE_SECONDS if status == HTTPStatus.GONE else said)
