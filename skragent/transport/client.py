"""An HTTP client that sends each request once, for IMDS and MAA.

It follows no redirect, retries nothing, keeps no cookies and reads no netrc. The caller
interprets the response.
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

_MAX_RETRY_AFTER_DIGITS: Final = 9  # thirty years

# IMDS answers 410 while it is being updated, for at most this time
# (learn.microsoft.com: entra, managed-identities-azure-resources/how-to-use-vm-token,
# "Retry guidance").
IMDS_UPDATE_SECONDS: Final = 70.0


# The remedies in skragent-errors(7) for HTTP 429 and for every 5xx.
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
    """A complete response. Names of `headers` are case-insensitive."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)  # may hold a token


class HttpClient:
    """Sends requests over kept-alive connections; a context manager that closes them.

    Args:
        timeout_seconds: for each exchange, from name resolution to the last byte.
        ca_file: PEM file of the trusted TLS roots; empty for the system's.
        use_proxies: whether to use HTTPS_PROXY and related variables. No other
            variable has an effect.
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
        """Skipped certificates of the TLS roots; known after the first https URL."""
        return self._adapter.skipped_roots

    @property
    def dates(self) -> Mapping[str, str]:
        """The latest `Date` header of each origin."""
        return self._adapter.dates

    def close(self) -> None:
        """Close every connection."""
        self._session.close()

    def new_session(self) -> requests.Session:
        """Return a session over these connections, for a library that uses requests."""
        session = requests.Session()
        # Ignore the environment: passwords of netrc, and other TLS roots.
        session.trust_env = False
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        session.mount("http://", self._adapter)
        session.mount("https://", self._adapter)
        return session

    def connect(self, origin: str) -> None:
        """Open a connection early, for the next request to `origin`.

        Only a timeout is raised, because a second wait would double it. The request
        will report any other error. Nothing is opened through a proxy.

        Raises:
            TransportError: transport.timeout
        """
        if self._proxies(origin):
            return
        try:
            self._adapter.open_early(origin)
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
        """Send a request once; return the response of any status but a redirect.

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
            except Exception as error:  # of requests itself, such as an invalid URL
                raise translate(error, exchange.where) from error
        return HttpResponse(response.status_code, response.headers, response.content)

    def _proxies(self, url: str) -> dict[str, str]:
        return requests.utils.get_environ_proxies(url) if self._use_proxies else {}


def raise_for_status(response: HttpResponse, what: str) -> None:
    """Raise an error for 429 and every 5xx; return on any other status.

    Args:
        response: the response.
        what: the service, for the message.

    Raises:
        TransportError: transport.throttled or .server, with `retry_after` if the header
            has seconds. (A date would need a clock.)
    """
    if response.status == HTTPStatus.TOO_MANY_REQUESTS:
        code, problem = "transport.throttled", "has too many requests"
        hint = THROTTLED_HINT
    elif response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        code, problem = "transport.server", "cannot answer now"
        hint = SERVER_HINT
    else:
        return
    raise TransportError(
        f"{what} {problem} (HTTP {response.status})",
        code=code,
        hint=hint,
        retry_after=parse_retry_after(response.headers.get("Retry-After", "")),
    )


def parse_retry_after(text: str) -> float | None:
    """Return a Retry-After in seconds (RFC 9110 §10.2.3); None for any other form."""
    text = text.strip()
    if text.isascii() and text.isdigit() and len(text) <= _MAX_RETRY_AFTER_DIGITS:
        return float(text)
    return None


def imds_hint(status: int) -> str:
    """Return the hint for a temporary failure of IMDS; empty if it is not temporary.

    Microsoft's "Retry guidance" lists the statuses: see `IMDS_UPDATE_SECONDS`.
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
    """Return after how many seconds to repeat a request to IMDS or Entra ID.

    None if the response does not say so. Status 410 implies a time; only IMDS has it.
    """
    seconds = parse_retry_after(headers.get("Retry-After", ""))
    return seconds or (IMDS_UPDATE_SECONDS if status == HTTPStatus.GONE else seconds)
