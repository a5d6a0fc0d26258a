"""A bounded adapter for requests: the boundary to requests, urllib3 and http.client.

It returns a response that was received completely, within the exchange's limits of time
and bytes, or raises `TransportError`. No exception of these libraries passes. Redirects
are not followed, and their bodies are not read. Encoded bodies are not decoded.

azure-core decodes a body later, by its Content-Type. So the adapter admits only JSON of
few values, and plain text, both in UTF-8.

It uses documented extension points of requests and urllib3 (adapter, pool classes,
connection classes) and ssl.SSLContext.sslsocket_class.
"""

from __future__ import annotations

import functools
import os
import queue
import ssl
import urllib.parse
from typing import TYPE_CHECKING, Any, Final, cast

import requests
import requests.adapters
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from skragent.errors import AgentError, ConfigError, TransportError
from skragent.tls_roots import make_tls_context
from skragent.transport.connecting import connect
from skragent.transport.exchange import (
    BoundedTlsSocket,
    Exchange,
    current_exchange,
    running,
)
from skragent.transport.failures import origin_of, translate
from skragent.transport.proxies import find_proxy, name_proxy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from urllib3 import PoolManager
    from urllib3.response import BaseHTTPResponse

# Observed: releases and sealed tokens have at most 12 kB.
MAX_BODY_BYTES: Final = 512 * 1024
# azure-core converts an error response to texts of up to forty times its bytes.
MAX_REFUSAL_BYTES: Final = 128 * 1024
# The largest observed response, Entra ID's metadata of a tenant, has some 100 values. A
# decoder needs up to 200 bytes of memory for each.
MAX_JSON_VALUES: Final = 10_000
_JSON: Final = "application/json"
# More than a job uses. Beyond the limit urllib3 closes pools that other threads use.
_MAX_ORIGINS: Final = 512
_CHUNK_BYTES: Final = 64 * 1024
_MAX_LENGTH_DIGITS: Final = 18


class _BoundedConnection(HTTPConnection):
    """A TCP connection within its thread's exchange."""

    def _new_conn(self) -> Any:  # type: ignore[explicit-override] # noqa: ANN401 - a socket
        exchange = current_exchange()
        if exchange is None:
            raise RuntimeError("a connection outside of an exchange")
        return connect(
            self._dns_host, self.port or 0, exchange, self.socket_options or ()
        )


class _BoundedTlsConnection(_BoundedConnection, HTTPSConnection):
    """A TLS connection that may have been idle since its handshake.

    A TLS 1.3 server sends session tickets after the handshake. urllib3 interprets any
    byte before the first request as the end of the connection, and would open another.
    """

    @property
    def is_connected(self) -> bool:  # type: ignore[explicit-override]
        """Whether a request can still be sent."""
        if self.sock is None or super().is_connected:
            return self.sock is not None
        if not isinstance(self.sock, ssl.SSLSocket):
            return False  # TLS inside a proxy's TLS is never opened in advance
        timeout = self.sock.gettimeout()
        self.sock.settimeout(0)
        try:
            # This processes tickets. The bounded read would wait for data.
            ssl.SSLSocket.read(self.sock, 1)
        except ssl.SSLWantReadError:
            return True
        except OSError:
            return False
        finally:
            self.sock.settimeout(timeout)
        return False  # closed, or a response without a request


class _Pool(HTTPConnectionPool):
    ConnectionCls = _BoundedConnection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _BoundedTlsConnection


_POOLS: Final = {"http": _Pool, "https": _TlsPool}


class BoundedAdapter(requests.adapters.HTTPAdapter):
    """One TLS context, kept-alive connections, and limits for each exchange.

    A context costs 25 ms, and requests would fill it from certifi's bundle. This one
    has the roots of the given file or of the system, and is made once, for the first
    https URL.

    Args:
        timeout_seconds: for each exchange, from name resolution to the last byte.
        ca_file: PEM file of the trusted TLS roots; empty for the system's.
    """

    def __init__(self, *, timeout_seconds: float, ca_file: str) -> None:
        self._timeout_seconds = timeout_seconds
        self._ca_file = ca_file
        # The `Date` header of the latest response of each origin.
        self.dates: dict[str, str] = {}
        # Certificates of the bundle that OpenSSL cannot read; set with the context.
        self.skipped_roots: tuple[str, ...] = ()
        super().__init__(max_retries=0, pool_connections=_MAX_ORIGINS, pool_maxsize=4)

    @functools.cached_property
    def _tls(self) -> ssl.SSLContext:
        context, self.skipped_roots = make_tls_context(self._ca_file)
        context.sslsocket_class = BoundedTlsSocket
        return context

    def exchange(self, url: str, max_bytes: int = MAX_BODY_BYTES) -> Exchange:
        """Return an exchange with a URL's origin; its time begins now."""
        return Exchange(
            origin_of(url), seconds=self._timeout_seconds, max_bytes=max_bytes
        )

    # typing.override is Python 3.12's.
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[explicit-override] # noqa: ANN401 - the overridden signature
        """Make pools use the bounded connections."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:  # type: ignore[explicit-override] # noqa: ANN401 - the overridden signature
        """Do the same for a proxy, and use the TLS context for TLS to the proxy."""
        if urllib.parse.urlsplit(proxy).scheme == "https":
            kwargs["proxy_ssl_context"] = self._tls
        manager: PoolManager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def build_connection_pool_key_attributes(  # type: ignore[explicit-override, override]
        self,
        request: requests.PreparedRequest,
        verify: object,  # noqa: ARG002 - the overridden signature
        cert: object = None,  # noqa: ARG002 - as above
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the pool's key of a request: the origin, with the TLS context."""
        parts = urllib.parse.urlsplit(cast("str", request.url))
        host = {"scheme": parts.scheme, "host": parts.hostname, "port": parts.port}
        return host, {"ssl_context": self._tls} if parts.scheme == "https" else {}

    def cert_verify(  # type: ignore[explicit-override]
        self, conn: object, url: object, verify: object, cert: object
    ) -> None:
        """Do nothing: the TLS context has the roots and verifies."""

    def send(  # type: ignore[explicit-override] # noqa: PLR0917 - the overridden signature
        self,
        request: requests.PreparedRequest,
        stream: bool = False,  # noqa: ARG002, FBT001, FBT002 - the overridden signature
        timeout: object = None,  # noqa: ARG002 - the exchange's counts
        verify: bool | str = True,  # noqa: FBT001, FBT002 - the overridden signature
        cert: Any = None,  # noqa: ANN401 - as above
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send a request once; return its complete response.

        Raises:
            TransportError: transport.timeout, .refused, .dns, .tls, .reset, .oversized,
                .unexpected
            ConfigError: the file of TLS roots cannot be used.
        """
        # Without compression the counted bytes are those of the body.
        request.headers["Accept-Encoding"] = "identity"
        url = cast("str", request.url)
        with running(self.exchange(url)) as exchange:
            proxy = find_proxy(url, proxies, os.environ)
            if proxy:
                proxy.raise_if_unusable(exchange.where)
            try:
                return self._exchange(request, exchange, verify, cert, proxies)
            except ConfigError:
                raise
            except Exception as error:
                failure = translate(error, exchange.where)
                if proxy:
                    failure = name_proxy(failure, error, proxy, exchange.where)
                raise failure from error

    def _exchange(
        self,
        request: requests.PreparedRequest,
        exchange: Exchange,
        verify: bool | str,  # noqa: FBT001 - the overridden signature's
        cert: Any,  # noqa: ANN401 - as above
        proxies: Mapping[str, str] | None,
    ) -> requests.Response:
        seconds = exchange.seconds_left()
        response = super().send(request, True, seconds, verify, cert, proxies)  # noqa: FBT003 - as above
        self.dates[exchange.where] = response.headers.get("Date", "")
        try:
            check_head(response.status_code, response.headers, exchange)
            content = read_body(response.raw, exchange)
        except BaseException:
            response.close()
            raise
        restrict_content_type(response, content, exchange)
        # requests keeps a body that was read in these attributes.
        response._content = content  # noqa: SLF001 - it has no public name
        response._content_consumed = True  # type: ignore[attr-defined] # noqa: SLF001 - as above
        return response

    def open_early(self, url: str) -> None:
        """Open a connection and put it where the next request takes it.

        `pool.pool` is a stack of connections, with None for a connection to be made.

        Raises:
            TransportError, ConfigError: as `send`.
        """
        with running(self.exchange(url)) as exchange:
            try:
                self._open_early(url, exchange)
            except AgentError:
                raise
            except Exception as error:
                raise translate(error, exchange.where) from error

    def _open_early(self, url: str, exchange: Exchange) -> None:
        request = requests.Request("GET", url).prepare()
        pool = cast(
            "HTTPConnectionPool",
            self.get_connection_with_tls_context(request, verify=True),
        )
        connection = pool.ConnectionCls(
            host=pool.host,
            port=pool.port,
            timeout=exchange.seconds_left(),
            **pool.conn_kw,
        )
        connection.connect()
        _put_on_top(pool, connection)


def check_head(status: int, headers: Mapping[str, str], exchange: Exchange) -> None:
    """Reject a response by its status and headers, before its body is read.

    Raises:
        TransportError: transport.unexpected, .oversized
    """
    if 300 <= status < 400:  # noqa: PLR2004 - RFC 9110 §15.4
        raise _unexpected(exchange, f"redirects (HTTP {status}), which is not followed")
    if headers.get("Content-Encoding", "identity").lower() != "identity":
        raise _unexpected(exchange, "answered with an encoding that was not requested")
    if status >= 400:  # noqa: PLR2004 - RFC 9110 §15.5 and §15.6
        exchange.max_bytes = min(exchange.max_bytes, MAX_REFUSAL_BYTES)
    length = headers.get("Content-Length", "0")
    if not (length.isascii() and length.isdigit()):
        raise _unexpected(exchange, "answered with a bad Content-Length")
    if len(length) > _MAX_LENGTH_DIGITS or int(length) > exchange.max_bytes:
        raise exchange.oversized()


def read_body(raw: BaseHTTPResponse, exchange: Exchange) -> bytes:
    """Read a body up to the limits of the exchange.

    Raises:
        TransportError: transport.oversized
        TimeoutError: the exchange's time is over.
    """
    content = bytearray()
    while chunk := raw.read1(_CHUNK_BYTES, decode_content=False):
        content += chunk
        if len(content) > exchange.max_bytes:
            raise exchange.oversized()
        exchange.seconds_left()
    return bytes(content)


def restrict_content_type(
    response: requests.Response, content: bytes, exchange: Exchange
) -> None:
    """Restrict what a library can decode to JSON of few values, or text, in UTF-8.

    Some of Python's charsets take quadratic time, and XML takes unbounded memory.

    Raises:
        TransportError: transport.oversized
    """
    # azure-core decodes every error response as JSON, regardless of its Content-Type.
    if sum(content.count(sign) for sign in (b",", b"[", b"{")) > MAX_JSON_VALUES:
        raise TransportError(
            f"{exchange.where} answered with more than {MAX_JSON_VALUES} values",
            code="transport.oversized",
        )
    # Azure's services always send a Content-Type; azure-core's default is JSON.
    content_type = response.headers.get("Content-Type", _JSON)
    is_json = content_type.partition(";")[0].strip().lower() == _JSON
    form = _JSON if is_json else "text/plain"
    response.headers["Content-Type"] = f"{form}; charset=utf-8"
    response.encoding = "utf-8"


def _unexpected(exchange: Exchange, what: str) -> TransportError:
    return TransportError(f"{exchange.where} {what}", code="transport.unexpected")


def _put_on_top(pool: HTTPConnectionPool, connection: Any) -> None:  # noqa: ANN401 - urllib3 has no public name for it
    stack = cast("queue.LifoQueue[Any]", pool.pool)
    try:
        beneath = stack.get(block=False)
    except queue.Empty:  # the pool has no free place
        connection.close()
        return
    if beneath is not None:  # keep a connection that is idle already
        connection.close()
        connection = beneath
    stack.put(connection, block=False)
