"""Bounded HTTP: one request, tried once, with limits on time and bytes.

Used for IMDS and MAA. Follows no redirect, retries nothing, keeps no cookies, reads no
netrc and lets no exception of requests or urllib3 out. Retries belong to the agent's
supervisor, nowhere else; what an answer means is for whoever asked.
"""

from __future__ import annotations

import functools
import queue
import ssl
import time
import urllib.parse
from dataclasses import dataclass, field
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, Self, cast

import requests
import requests.adapters
import requests.structures
import requests.utils

from skragent.errors import ConfigError, TransportError
from skragent.transport_failures import FAILURES, translate

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from urllib3.connectionpool import HTTPConnectionPool

_CHUNK_BYTES = 64 * 1024
_MAX_RETRY_AFTER_DIGITS = 9  # thirty years are enough for everybody


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An answer, read whole. `headers` are looked up in any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)  # may hold a token


class _Adapter(requests.adapters.HTTPAdapter):
    """requests' own, but with one TLS context for all connections.

    Building a context costs 25 ms, and requests would fill it from certifi's bundle:
    ours comes from the given file or the system's store and is built once, when the
    first https URL asks for it.
    """

    def __init__(self, ca_file: str) -> None:
        self._ca_file = ca_file
        super().__init__(max_retries=0, pool_connections=4, pool_maxsize=4)

    @functools.cached_property
    def _tls(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self._ca_file or None)
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError(
                [f"{self._ca_file}: no PEM file of TLS roots: {error.strerror}"]
            ) from error

    # typing.override is Python 3.12's.
    def build_connection_pool_key_attributes(  # type: ignore[explicit-override, override]
        self,
        request: requests.PreparedRequest,
        verify: object,  # noqa: ARG002 - the overridden signature
        cert: object = None,  # noqa: ARG002 - as above
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Say which pool serves a request: by origin, and with our TLS context."""
        parts = urllib.parse.urlsplit(cast("str", request.url))
        host = {"scheme": parts.scheme, "host": parts.hostname, "port": parts.port}
        return host, {"ssl_context": self._tls} if parts.scheme == "https" else {}

    def cert_verify(  # type: ignore[explicit-override]
        self, conn: object, url: object, verify: object, cert: object
    ) -> None:
        """Add nothing: the TLS context has the roots and verifies."""

    def open_ahead(self, url: str, timeout_seconds: float) -> None:
        """Connect, handshake, and put the connection where the next request takes it.

        `pool.pool` is a stack of connections, where None stands for one not yet made.
        """
        request = requests.Request("GET", url).prepare()
        pool = cast(
            "HTTPConnectionPool",
            self.get_connection_with_tls_context(request, verify=True),
        )
        connection = pool.ConnectionCls(
            host=pool.host,
            port=pool.port,
            timeout=timeout_seconds,
            **pool.conn_kw,
        )
        connection.connect()
        _put_on_top(pool, connection)


def _put_on_top(pool: HTTPConnectionPool, connection: Any) -> None:  # noqa: ANN401 - urllib3 has no public name for it
    stack = cast("queue.LifoQueue[Any]", pool.pool)
    try:
        beneath = stack.get(block=False)
    except queue.Empty:  # as many as the pool keeps are at work
        connection.close()
        return
    if beneath is not None:  # an idle one is there already: keep that
        connection.close()
        connection = beneath
    stack.put(connection, block=False)


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
        self._adapter = _Adapter(ca_file)
        self._session = requests.Session()
        # The environment has no say: neither netrc's passwords nor other TLS roots.
        self._session.trust_env = False
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._session.mount("http://", self._adapter)
        self._session.mount("https://", self._adapter)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._session.close()

    def connect(self, origin: str) -> None:
        """Open a connection ahead of time, for the next request to `origin`.

        An error is none yet: the request will meet it again and say so. Does nothing
        where a proxy stands between.
        """
        if self._proxies(origin):
            return
        try:
            self._adapter.open_ahead(origin, self._timeout_seconds)
        except FAILURES:
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
