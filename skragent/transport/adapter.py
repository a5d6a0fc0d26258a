"""requests' adapter, bounded: the one boundary to requests, urllib3 and http.client.

What it gives back was received whole, within the exchange's time and bytes, or it
raises `TransportError`: no exception of these libraries gets past it. A redirect is
never followed and its body never read; a body in an encoding is never decoded.

azure-core decodes a body as its Content-Type says, after the exchange: so what it sees
is JSON or plain text in UTF-8, and JSON of few values.

Uses only what requests and urllib3 document for extension: an adapter, pool classes and
connection classes; and ssl.SSLContext.sslsocket_class.
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

# Releases and sealed tokens seen have at most 12 kB.
MAX_BODY_BYTES: Final = 512 * 1024
# azure-core makes several texts of a refusal, which can take forty times its bytes.
MAX_REFUSAL_BYTES: Final = 128 * 1024
# Entra ID's description of a tenant, the largest seen, has some 100. A decoder that
# builds them takes up to 200 bytes of memory for each.
MAX_JSON_VALUES: Final = 10_000
_JSON: Final = "application/json"
# More than a job asks: urllib3 closes what another thread is about to use, otherwise.
_MAX_ORIGINS: Final = 512
_CHUNK_BYTES: Final = 64 * 1024
_MAX_LENGTH_DIGITS: Final = 18


class _BoundedConnection(HTTPConnection):
    """A TCP connection that is made within its thread's exchange."""

    def _new_conn(self) -> Any:  # type: ignore[explicit-override] # noqa: ANN401 - a socket
        exchange = current_exchange()
        if exchange is None:
            raise RuntimeError("a connection outside of an exchange")
        return connect(
            self._dns_host, self.port or 0, exchange, self.socket_options or ()
        )


class _BoundedTlsConnection(_BoundedConnection, HTTPSConnection):
    """The same with TLS; it may have been silent since its handshake.

    A TLS 1.3 server sends session tickets right after it. urllib3 takes any byte before
    the first request for the end of the connection and would open another one.
    """

    @property
    def is_connected(self) -> bool:  # type: ignore[explicit-override]
        """Whether the connection can still be used."""
        if self.sock is None or super().is_connected:
            return self.sock is not None
        if not isinstance(self.sock, ssl.SSLSocket):
            return False  # TLS in the TLS of a proxy: it is not opened ahead
        timeout = self.sock.gettimeout()
        self.sock.settimeout(0)
        try:
            # Reads tickets on its way; not the bounded read, which would wait.
            ssl.SSLSocket.read(self.sock, 1)
        except ssl.SSLWantReadError:
            return True
        except OSError:
            return False
        finally:
            self.sock.settimeout(timeout)
        return False  # closed; or an answer to no request


class _Pool(HTTPConnectionPool):
    ConnectionCls = _BoundedConnection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _BoundedTlsConnection


_POOLS: Final = {"http": _Pool, "https": _TlsPool}


class BoundedAdapter(requests.adapters.HTTPAdapter):
    """One TLS context, kept-alive connections, and bounds for each exchange.

    Building a context costs 25 ms, and requests would fill it from certifi's bundle:
    ours comes from the given file or the system's store and is built once, when the
    first https URL asks for it.

    Args:
        timeout_seconds: for each exchange, from name resolution to the last byte.
        ca_file: PEM of the roots to trust for TLS; empty for the system's.
    """

    def __init__(self, *, timeout_seconds: float, ca_file: str) -> None:
        self._timeout_seconds = timeout_seconds
        self._ca_file = ca_file
        # The `Date` of the last answer of each origin: its clock, as it says.
        self.dates: dict[str, str] = {}
        # Certificates of the bundle that OpenSSL cannot read, once it was read.
        self.skipped_roots: tuple[str, ...] = ()
        super().__init__(max_retries=0, pool_connections=_MAX_ORIGINS, pool_maxsize=4)

    @functools.cached_property
    def _tls(self) -> ssl.SSLContext:
        context, self.skipped_roots = make_tls_context(self._ca_file)
        context.sslsocket_class = BoundedTlsSocket
        return context

    def exchange(self, url: str, max_bytes: int = MAX_BODY_BYTES) -> Exchange:
        """Begin an exchange with a URL's origin: its time runs from now on."""
        return Exchange(
            origin_of(url), seconds=self._timeout_seconds, max_bytes=max_bytes
        )

    # typing.override is Python 3.12's.
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[explicit-override] # noqa: ANN401 - the overridden signature
        """Have connections made by our classes."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:  # type: ignore[explicit-override] # noqa: ANN401 - the overridden signature
        """The same for connections to a proxy, and TLS to the proxy by our context."""
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
        """Say which pool serves a request: by origin, and with our TLS context."""
        parts = urllib.parse.urlsplit(cast("str", request.url))
        host = {"scheme": parts.scheme, "host": parts.hostname, "port": parts.port}
        return host, {"ssl_context": self._tls} if parts.scheme == "https" else {}

    def cert_verify(  # type: ignore[explicit-override]
        self, conn: object, url: object, verify: object, cert: object
    ) -> None:
        """Add nothing: the TLS context has the roots and verifies."""

    def send(  # type: ignore[explicit-override] # noqa: PLR0917 - the overridden signature
        self,
        request: requests.PreparedRequest,
        stream: bool = False,  # noqa: ARG002, FBT001, FBT002 - the overridden signature
        timeout: object = None,  # noqa: ARG002 - the exchange's counts
        verify: bool | str = True,  # noqa: FBT001, FBT002 - the overridden signature
        cert: Any = None,  # noqa: ANN401 - as above
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Ask once; return the answer, received whole.

        Raises:
            TransportError: transport.timeout, .refused, .dns, .tls, .reset, .oversized,
                .unexpected
            ConfigError: the file of TLS roots cannot be used.
        """
        # What is counted is what arrives, and nothing inflates.
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
            refuse_unasked(response.status_code, response.headers, exchange)
            content = read_body(response.raw, exchange)
        except BaseException:
            response.close()
            raise
        settle_form(response, content, exchange)
        # As requests keeps a body that was read.
        response._content = content  # noqa: SLF001 - it has no public name
        response._content_consumed = True  # type: ignore[attr-defined] # noqa: SLF001 - as above
        return response

    def open_ahead(self, url: str) -> None:
        """Connect, handshake, and put the connection where the next request takes it.

        `pool.pool` is a stack of connections, where None stands for one not yet made.

        Raises:
            TransportError, ConfigError: as `send`.
        """
        with running(self.exchange(url)) as exchange:
            try:
                self._open_ahead(url, exchange)
            except AgentError:
                raise
            except Exception as error:
                raise translate(error, exchange.where) from error

    def _open_ahead(self, url: str, exchange: Exchange) -> None:
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


def refuse_unasked(status: int, headers: Mapping[str, str], exchange: Exchange) -> None:
    """Refuse an answer by its head, before its body is read.

    Raises:
        TransportError: transport.unexpected, .oversized
    """
    if 300 <= status < 400:  # noqa: PLR2004 - RFC 9110 §15.4
        raise _unexpected(exchange, f"redirects (HTTP {status}), which is not followed")
    if headers.get("Content-Encoding", "identity").lower() != "identity":
        raise _unexpected(exchange, "answered with an encoding not asked for")
    if status >= 400:  # noqa: PLR2004 - RFC 9110 §15.5 and §15.6
        exchange.max_bytes = min(exchange.max_bytes, MAX_REFUSAL_BYTES)
    length = headers.get("Content-Length", "0")
    if not (length.isascii() and length.isdigit()):
        raise _unexpected(exchange, "answered with a bad Content-Length")
    if len(length) > _MAX_LENGTH_DIGITS or int(length) > exchange.max_bytes:
        raise exchange.oversized()


def read_body(raw: BaseHTTPResponse, exchange: Exchange) -> bytes:
    """Read a body as it comes, up to the exchange's limits.

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


def settle_form(
    response: requests.Response, content: bytes, exchange: Exchange
) -> None:
    """Leave a library nothing to decode but JSON of few values, or text; in UTF-8.

    Some charsets of Python take quadratic time, and XML takes memory without a bound.

    Raises:
        TransportError: transport.oversized
    """
    # azure-core reads any refusal as JSON, whatever its type is, for its error.
    if sum(content.count(sign) for sign in (b",", b"[", b"{")) > MAX_JSON_VALUES:
        raise TransportError(
            f"{exchange.where} answered with more than {MAX_JSON_VALUES} values",
            code="transport.oversized",
        )
    # Azure's services always say what they send; azure-core takes silence for JSON.
    said = response.headers.get("Content-Type", _JSON)
    is_json = said.partition(";")[0].strip().lower() == _JSON
    form = _JSON if is_json else "text/plain"
    response.headers["Content-Type"] = f"{form}; charset=utf-8"
    response.encoding = "utf-8"


def _unexpected(exchange: Exchange, what: str) -> TransportError:
    return TransportError(f"{exchange.where} {what}", code="transport.unexpected")


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
