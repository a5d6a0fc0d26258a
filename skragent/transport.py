"""Bounded HTTP: one request, tried once, with limits on time and bytes.

Used for IMDS and MAA. Follows no redirect, retries nothing, keeps no cookies, reads no
netrc and lets no exception of requests or urllib3 out. Retries belong to the agent's
supervisor, nowhere else; what an answer means is for whoever asked.
"""

from __future__ import annotations

import time
import urllib.parse
from dataclasses import dataclass, field
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Self

import requests
import requests.utils

from skragent.errors import ConfigError, TransportError
from skragent.transport_adapter import TlsAdapter
from skragent.transport_failures import FAILURES, translate

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

_CHUNK_BYTES = 64 * 1024
_MAX_RETRY_AFTER_DIGITS = 9  # thirty years are enough for everybody

# IMDS answers 410 while it is being updated; it is back within that time, says
# Microsoft's guidance for its clients (protocols/akv.md §5).
IMDS_UPDATE_SECONDS = 70.0


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An answer, read whole. `headers` are looked up in any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)  # may hold a token


class HttpClient:
    """Asks over kept-alive connections; a context manager that closes them.

    Args:
        timeout_seconds: for connecting, for the answer to begin and for it to end.
        ca_file: PEM of the roots to trust for TLS; empty for the system's.
        use_proxies: obey HTTPS_PROXY and friends. No other variable is obeyed.
    """

    def __init__(
        self, *, timeout_seconds: float, ca_file: str = "", use_proxies: bool
    ) -> None:
        self._timeout_seconds = timeout_seconds
        self._use_proxies = use_proxies
        self._adapter = TlsAdapter(ca_file)
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
            self._adapter.open_ahead(origin, self._timeout_seconds)
        except FAILURES as error:
            failure = translate(error, _origin(origin))
            if failure.code == "transport.timeout":
                raise failure from error
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
        """
        where = _origin(url)
        try:
            with self._session.request(
                method,
                url,
                # identity: what is counted is what arrives, and nothing inflates
                headers={"Accept-Encoding": "identity", **(headers or {})},
                data=body,
                timeout=self._timeout_seconds,
                proxies=self._proxies(url),
                allow_redirects=False,
                stream=True,
            ) as response:
                _refuse_unasked(response, where)
                content = self._read(response, where, max_bytes)
                return HttpResponse(response.status_code, response.headers, content)
        except FAILURES as error:
            raise translate(error, where) from error

    def _proxies(self, url: str) -> dict[str, str]:
        return requests.utils.get_environ_proxies(url) if self._use_proxies else {}

    def _read(self, response: requests.Response, where: str, max_bytes: int) -> bytes:
        """Read the body as it comes, up to a size and a time.

        `read1` gives what is there: a server that drips one byte at a time cannot
        outlive the deadline by more than one byte's wait.
        """
        deadline = time.monotonic() + self._timeout_seconds
        if int(response.headers.get("Content-Length", "0") or "0") > max_bytes:
            raise _oversized(where, max_bytes)
        content = bytearray()
        while chunk := response.raw.read1(_CHUNK_BYTES, decode_content=False):
            content += chunk
            if len(content) > max_bytes:
                raise _oversized(where, max_bytes)
            if time.monotonic() > deadline:
                raise _error(f"{where} took too long to answer", "timeout")
        return bytes(content)


def raise_for_status(response: HttpResponse, what: str) -> None:
    """Turn 429 and every 5xx into errors; gives back on any other status.

    Args:
        response: the answer.
        what: who answered, for the error's prose.

    Raises:
        TransportError: transport.throttled or .server, with `retry_after` where the
            answer says it in seconds. (An HTTP-date would need a clock.)
    """
    if response.status == requests.codes.too_many_requests:
        code, said = "transport.throttled", "asks us to slow down"
    elif response.status >= requests.codes.internal_server_error:
        code, said = "transport.server", "cannot answer now"
    else:
        return
    raise TransportError(
        f"{what} {said} (HTTP {response.status})",
        code=code,
        retry_after=parse_retry_after(response.headers.get("Retry-After", "")),
    )


def parse_retry_after(text: str) -> float | None:
    """Read a Retry-After in seconds; None for anything else."""
    text = text.strip()
    if text.isascii() and text.isdigit() and len(text) <= _MAX_RETRY_AFTER_DIGITS:
        return float(text)
    return None


def find_retry_after(status: int, headers: Mapping[str, str]) -> float | None:
    """Tell when IMDS or Entra ID want to be asked again; None: they do not say.

    Only IMDS ever answers 410, and by that says it too.
    """
    said = parse_retry_after(headers.get("Retry-After", ""))
    return said or (IMDS_UPDATE_SECONDS if status == requests.codes.gone else said)


def _origin(url: str) -> str:
    """Name who was asked, without path and query: those may hold ids."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:  # requests will say the same
        return "what is no URL"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _error(message: str, kind: str) -> TransportError:
    return TransportError(message, code=f"transport.{kind}")


def _oversized(where: str, max_bytes: int) -> TransportError:
    return _error(f"{where} answered with more than {max_bytes} bytes", "oversized")


def _refuse_unasked(response: requests.Response, where: str) -> None:
    if 300 <= response.status_code < 400:  # noqa: PLR2004 - RFC 9110 §15.4
        raise _error(
            f"{where} redirects (HTTP {response.status_code}), which is not followed",
            "unexpected",
        )
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise _error(f"{where} answered with an encoding not asked for", "unexpected")
    if not response.headers.get("Content-Length", "0").isdecimal():
        raise _error(f"{where} answered with a bad Content-Length", "unexpected")
