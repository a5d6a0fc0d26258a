"""Connections of one job, begun before there is anything to say over them.

An error of opening one is none yet, for the first request meets it again; but for
silence, which is told to who wants a session: so it is waited for once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skragent.transport import HttpClient

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Executor

    import requests

    from skragent.job import Job


class Connections:
    """To IMDS for access tokens, to vaults, and to Entra ID where it is asked."""

    def __init__(self, job: Job, executor: Executor) -> None:
        self.http = HttpClient(
            timeout_seconds=job.timeout_seconds,
            ca_file=job.tls_roots,
            use_proxies=True,
        )
        self._imds = HttpClient(timeout_seconds=job.timeout_seconds, use_proxies=False)
        self._imds_opened = executor.submit(self._imds.connect, job.imds_endpoint)
        self._opened = {
            url: executor.submit(self.http.connect, url) for url in _hosts(job)
        }

    @property
    def dates(self) -> Mapping[str, str]:
        """Return what each service last said in `Date`, by origin."""
        return {**self._imds.dates, **self.http.dates}

    def close(self) -> None:
        """Close them; a process that ends need not."""
        self.http.close()
        self._imds.close()

    def identity_session(self) -> requests.Session:
        """Give a session that finds a connection to IMDS open.

        Raises:
            TransportError: transport.timeout
        """
        self._imds_opened.result()
        return self._imds.new_session()

    def session_for(self, url: str) -> requests.Session:
        """Give a session that finds a connection to this vault or authority open.

        Raises:
            TransportError: transport.timeout
        """
        self._opened[url].result()
        return self.http.new_session()


def _hosts(job: Job) -> set[str]:
    """List who is asked for keys, and for access tokens where that is not IMDS."""
    hosts = {key.vault for key in job.keys}
    if any(key.identity.tenant_id for key in job.keys):
        hosts.add(job.authority)
    return hosts
