"""Everything that can be asked or opened before there is anything to say.

Begun before TPM and Azure are even imported: connections to vaults and verifier, the
verifier's signing keys, the chip's endorsements. An error is told to who asks for the
outcome; one of opening a connection is none yet, the first request meets it again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skragent.attestation.maa import MaaClient
from skragent.attestation.regions import shared_endpoint
from skragent.evidence.imds import ImdsClient
from skragent.transport import HttpClient

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

    import requests

    from skragent.job import Job
    from skragent.releaser.watch import Stopwatch


class Ahead:
    """What is under way for one job; all of it begins when this is made."""

    def __init__(self, job: Job, executor: Executor, watch: Stopwatch) -> None:
        self._watch = watch
        self._endpoint = job.attestation_endpoint
        self._imds = ImdsClient(job.imds_endpoint, job.timeout_seconds)
        self._http = HttpClient(
            timeout_seconds=job.timeout_seconds,
            ca_file=job.tls_roots,
            use_proxies=True,
        )
        self._identity_http = HttpClient(
            timeout_seconds=job.timeout_seconds, use_proxies=False
        )
        self._identity_opened = executor.submit(
            self._identity_http.connect, job.imds_endpoint
        )
        self.endorsements: Future[bytes] = executor.submit(self._ask_endorsements)
        self.maa: Future[MaaClient] = executor.submit(self._find_provider)
        self.signing_keys: Future[bytes] = executor.submit(self._ask_keys)
        self._opened = {
            url: executor.submit(self._http.connect, url) for url in _hosts(job)
        }

    def close(self) -> None:
        """Close the connections; a process that ends need not."""
        self._http.close()
        self._identity_http.close()
        self._imds.close()

    def identity_session(self) -> requests.Session:
        """Give a session that finds a connection to IMDS open."""
        self._identity_opened.result()
        return self._identity_http.new_session()

    def session_for(self, url: str) -> requests.Session:
        """Give a session that finds a connection to this vault or authority open."""
        self._opened[url].result()
        return self._http.new_session()

    def _ask_endorsements(self) -> bytes:
        with self._watch.step("imds.endorsements"):
            return self._imds.endorsements()

    def _find_provider(self) -> MaaClient:
        endpoint = self._endpoint
        if endpoint == "auto":
            with self._watch.step("imds.location"):
                endpoint = shared_endpoint(self._imds.location())
        maa = MaaClient(endpoint, self._http)
        with self._watch.step("maa.connect"):
            maa.connect()
        return maa

    def _ask_keys(self) -> bytes:
        # Not over the connection that the evidence will need: they would meet.
        endpoint = self._endpoint
        known = MaaClient(endpoint, self._http) if endpoint != "auto" else None
        maa = known or self.maa.result()
        with self._watch.step("maa.keys"):
            return maa.signing_keys()


def _hosts(job: Job) -> set[str]:
    """List who is asked for keys, and for access tokens where that is not IMDS."""
    hosts = {key.vault for key in job.keys}
    if any(key.identity.tenant_id for key in job.keys):
        hosts.add(job.authority)
    return hosts
