"""Connections and requests of one job that need no evidence, begun at its start.

They begin before the libraries of the TPM and of Azure are imported: TCP and TLS to
every service, the provider's signing keys, the chip's endorsements. The future of each
request raises its error for the stage that needs the response.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skragent.attestation.maa import MaaClient
from skragent.attestation.regions import shared_endpoint
from skragent.evidence.imds import ImdsClient
from skragent.transport import HttpClient

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Executor, Future

    import requests

    from skragent.job import Job
    from skragent.releaser.stopwatch import Stopwatch


class Connections:
    """Connections to vaults, to IMDS for access tokens, and to Entra ID if needed.

    They begin to open when the object is made. Only a timeout of opening is an error,
    because a job must not wait twice for a silent service. The first request reports
    every other error again.
    """

    def __init__(self, job: Job, executor: Executor) -> None:
        self.http = HttpClient(
            timeout_seconds=job.timeout_seconds,
            ca_file=job.tls_roots,
            use_proxies=True,
        )
        self._imds = HttpClient(timeout_seconds=job.timeout_seconds, use_proxies=False)
        self._imds_opened = executor.submit(self._imds.connect, job.imds_endpoint)
        self._opened = {
            url: executor.submit(self.http.connect, url) for url in _list_origins(job)
        }

    @property
    def dates(self) -> Mapping[str, str]:
        """The latest `Date` header of each service, by origin."""
        return {**self._imds.dates, **self.http.dates}

    def close(self) -> None:
        """Close the connections; a process that exits need not."""
        self.http.close()
        self._imds.close()

    def identity_session(self) -> requests.Session:
        """Return a session with an open connection to IMDS.

        Raises:
            TransportError: transport.timeout
        """
        self._imds_opened.result()
        return self._imds.new_session()

    def session_for(self, url: str) -> requests.Session:
        """Return a session with an open connection to this vault or authority.

        Raises:
            TransportError: transport.timeout
        """
        self._opened[url].result()
        return self.http.new_session()


class Prefetch:
    """Requests of one job that are under way from the moment this object is made."""

    def __init__(self, job: Job, executor: Executor, stopwatch: Stopwatch) -> None:
        self._stopwatch = stopwatch
        self._endpoint = job.attestation_endpoint
        self._imds = ImdsClient(job.imds_endpoint, job.timeout_seconds)
        self.connections = Connections(job, executor)
        self._http = self.connections.http
        self.endorsements: Future[bytes] = executor.submit(self._fetch_endorsements)
        self.maa: Future[MaaClient] = executor.submit(self._connect_to_provider)
        self.signing_keys: Future[bytes] = executor.submit(self._fetch_signing_keys)

    @property
    def dates(self) -> Mapping[str, str]:
        """The latest `Date` header of each service, by origin."""
        return {**self._imds.dates, **self.connections.dates}

    def close(self) -> None:
        """Close the connections; a process that exits need not."""
        self.connections.close()
        self._imds.close()

    def _fetch_endorsements(self) -> bytes:
        with self._stopwatch.step("imds.endorsements"):
            return self._imds.endorsements()

    def _connect_to_provider(self) -> MaaClient:
        endpoint = self._endpoint
        if endpoint == "auto":
            with self._stopwatch.step("imds.location"):
                endpoint = shared_endpoint(self._imds.location())
        maa = MaaClient(endpoint, self._http)
        with self._stopwatch.step("maa.connect"):
            maa.connect()
        return maa

    def _fetch_signing_keys(self) -> bytes:
        # A second connection: the first one must be free for the evidence.
        endpoint = self._endpoint
        known = MaaClient(endpoint, self._http) if endpoint != "auto" else None
        maa = known or self.maa.result()
        with self._stopwatch.step("maa.keys"):
            return maa.signing_keys()


def _list_origins(job: Job) -> set[str]:
    """Return every vault, and Entra ID if a key uses an application's identity."""
    origins = {key.vault for key in job.keys}
    if any(key.identity.tenant_id for key in job.keys):
        origins.add(job.authority)
    return origins
