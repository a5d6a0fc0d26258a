"""requests' adapter with one TLS context, and with connections opened ahead of time.

The part of `transport` that knows requests' and urllib3's extension points. Not here:
requests and answers.
"""

from __future__ import annotations

import functools
import queue
import ssl
import urllib.parse
from typing import TYPE_CHECKING, Any, cast

import requests
import requests.adapters
from urllib3.connection import HTTPSConnection

from skragent.tls_roots import make_tls_context

if TYPE_CHECKING:
    from urllib3.connectionpool import HTTPConnectionPool


class _AheadConnection(HTTPSConnection):
    """A TLS connection that may have been silent since its handshake.

    A TLS 1.3 server sends session tickets right after it. urllib3 takes any byte before
    the first request for the end of the connection and would open another one.
    """

    @property
    def is_connected(self) -> bool:  # type: ignore[explicit-override]
        """Whether the connection can still be used."""
        if self.sock is None or super().is_connected:
            return self.sock is not None
        timeout = self.sock.gettimeout()
        self.sock.settimeout(0)
        try:
            self.sock.recv(1)  # reads tickets on its way
        except ssl.SSLWantReadError:
            return True
        except OSError:
            return False
        finally:
            self.sock.settimeout(timeout)
        return False  # closed; or an answer that nobody asked for


class TlsAdapter(requests.adapters.HTTPAdapter):
    """requests' own, but with one TLS context for all connections.

    Building a context costs 25 ms, and requests would fill it from certifi's bundle:
    ours comes from the given file or the system's store and is built once, when the
    first https URL asks for it.
    """

    def __init__(self, ca_file: str) -> None:
        self._ca_file = ca_file
        # Certificates of the bundle that OpenSSL cannot read, once it was read.
        self.skipped_roots: tuple[str, ...] = ()
        super().__init__(max_retries=0, pool_connections=4, pool_maxsize=4)

    @functools.cached_property
    def _tls(self) -> ssl.SSLContext:
        context, self.skipped_roots = make_tls_context(self._ca_file)
        return context

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
        kind = _AheadConnection if pool.scheme == "https" else pool.ConnectionCls
        connection = kind(
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
