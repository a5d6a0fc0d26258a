"""Everything that can be asked before there is anything to say.

Begun before TPM and Azure are even imported: the connections, the verifier's signing
keys, the chip's endorsements. An error is told to who asks for the outcome.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skragent.attestation.maa import MaaClient
from skragent.attestation.regions import shared_endpoint
from skragent.evidence.imds import ImdsClient
from skragent.releaser.connections import Connections

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Executor, Future

    from skragent.job import Job
    from skragent.releaser.stopwatch import Stopwatch


class Prefetch:
    """What is under way for one job; all of it begins when this is made."""

    def __init__(self, job: Job, executor: Executor, stopwatch: Stopwatch) -> None:
        self._stopwatch = stopwatch
        self._endpoint = job.attestation_endpoint
        self._imds = ImdsClient(job.imds_endpoint, job.timeout_seconds)
        self.connections = Connections(job, executor)
        self._http = self.connections.http
        self.endorsements: Future[bytes] = executor.submit(self._ask_endorsements)
        self.maa: Future[MaaClient] = executor.submit(self._find_provider)
        self.signing_keys: Future[bytes] = executor.submit(self._ask_keys)

    @property
    def dates(self) -> Mapping[str, str]:
        """Return what each service last said in `Date`, by origin."""
        return {**self._imds.dates, **self.connections.dates}

    def close(self) -> None:
        """Close the connections; a process that ends need not."""
        self.connections.close()
        self._imds.close()

    def _ask_endorsements(self) -> bytes:
        with self._stopwatch.step("imds.endorsements"):
            return self._imds.endorsements()

    def _find_provider(self) -> MaaClient:
        endpoint = self._endpoint
        if endpoint == "auto":
            with self._stopwatch.step("imds.location"):
                endpoint = shared_endpoint(self._imds.location())
        maa = MaaClient(endpoint, self._http)
        with self._stopwatch.step("maa.connect"):
            maa.connect()
        return maa

    def _ask_keys(self) -> bytes:
        # Not over the connection that the evidence will need: they would meet.
        endpoint = self._endpoint
        known = MaaClient(endpoint, self._http) if endpoint != "auto" else None
        maa = known or self.maa.result()
        with self._stopwatch.step("maa.keys"):
            return maa.signing_keys()
