"""A requests session that reaches a server on a Unix socket."""

from __future__ import annotations

import socket
from pathlib import Path

import requests
from requests.adapters import HTTPAdapter
from support.deadlines import DEADLINE_SECONDS
from typing_extensions import override
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool


class _Connection(HTTPConnection):
    path: Path

    @override
    def _new_conn(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(DEADLINE_SECONDS)
        sock.connect(str(self.path))
        return sock


class _Adapter(HTTPAdapter):
    def __init__(self, path: Path) -> None:
        self._path = path
        super().__init__()

    @override
    def get_connection_with_tls_context(
        self, *arguments: object, **more: object
    ) -> HTTPConnectionPool:
        path = self._path

        class Pool(HTTPConnectionPool):
            class ConnectionCls(_Connection):
                pass

        Pool.ConnectionCls.path = path
        return Pool("localhost")


def unix_session(path: Path) -> requests.Session:
    """Send requests for http://localhost to the socket."""
    session = requests.Session()
    session.trust_env = False
    session.mount("http://localhost", _Adapter(path))
    return session
