"""One job from the vTPM to the arena: rooms 1, 2, 3, in the order of the story.

Everything that does not depend on each other runs side by side; the only sequence left
is connect, attest, release. A job that brings an attestation token only opens the
wrapping key again that the token is for, and releases.

The imports are part of it: they take longer than the work (azure alone 240 ms), so
each begins when something is there to wait for, always in this one thread, because
packages that are imported in two threads at once can meet half-made modules.
"""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from skragent.errors import AgentError
from skragent.job import (
    UNIQUE_BYTES,
    FailedKey,
    Job,
    Result,
    unique_offset,
)
from skragent.releaser.failures import describe_failure
from skragent.releaser.notes import Notes
from skragent.releaser.straggler_timeout import gather
from skragent.releaser.threads import waiting_threads
from skragent.secretmem import attach_arena

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from skragent.attestation.token import AttestationToken
    from skragent.job import Failure
    from skragent.releaser.attestation_stage import Outcome
    from skragent.releaser.connections import Connections
    from skragent.releaser.prefetch import Prefetch
    from skragent.releaser.stopwatch import Stopwatch
    from skragent.releaser.tpm_worker import TpmWorker
    from skragent.secretmem import Arena

# Whoever lets go of an arena wipes it, and it is the agent's memory too: this process
# holds it to its end.
_HELD: list[Arena] = []


def run_release(
    job: Job, stopwatch: Stopwatch, emit: Callable[[Result], None]
) -> Result:
    """Do a job; every failure that has a name is in the result.

    Args:
        job: the job.
        stopwatch: measures.
        emit: takes each part of the result but the last, as soon as it is there.

    Returns:
        the last part of the result.
    """
    pipeline = _Pipeline(job, stopwatch, emit)
    try:
        result = pipeline.resume() if job.token else pipeline.run()
    except AgentError as error:
        failure = pipeline.name_clock(describe_failure(error))
        failed = Result(failure=failure, timings=stopwatch.timings())
        result = pipeline.tell_of_ak_certificate(failed)
    finally:
        pipeline.close()
    return pipeline.add_notes(result)


class _Pipeline:
    """What the steps of one job share."""

    def __init__(
        self, job: Job, stopwatch: Stopwatch, emit: Callable[[Result], None]
    ) -> None:
        self._job = job
        self._stopwatch = stopwatch
        self._emit = emit
        self._tpm_worker: TpmWorker | None = None
        self._connections: Connections | None = None
        self._network: Prefetch | Connections | None = None  # has Azure's clocks
        self._notes = Notes()
        self._waiting = ThreadPoolExecutor(waiting_threads(job), "wait")

    def close(self) -> None:
        """Let go of the TPM."""
        if self._tpm_worker is not None:
            self._tpm_worker.close()

    def name_clock(self, failure: Failure) -> Failure:
        """Name this VM's clock if it is wrong, and the failure may be its fault."""
        if self._network is None:
            return failure
        from skragent.releaser.clock_check import name_clock  # noqa: PLC0415 - seldom needed

        return name_clock(failure, self._network.dates, self._job.now)

    def add_notes(self, result: Result) -> Result:
        """Add what a person should know of, whatever came of the job."""
        if self._connections is not None:
            where = f"trust.tls_roots: {self._job.tls_roots or 'the system'}"
            self._notes.add(where, self._connections.http.skipped_roots)
        return msgspec.structs.replace(result, notes=self._notes.all())

    def run(self) -> Result:
        """Attest, and release."""
        arena = self._attach()
        with self._stopwatch.step("import.network"):
            from skragent.releaser.prefetch import Prefetch  # noqa: PLC0415 - see above
        prefetch = self._network = Prefetch(self._job, self._waiting, self._stopwatch)
        # Random: who does not know it cannot make the wrapping key again.
        unique = secrets.token_bytes(UNIQUE_BYTES)
        arena.view(unique_offset(len(self._job.keys)), UNIQUE_BYTES)[:] = unique
        tpm_worker = self._open_lane(unique, collects=True)
        attesting = self._attest(tpm_worker, prefetch)

        def token() -> AttestationToken:
            outcome = attesting.result()
            self._emit(
                Result(
                    is_last=False,
                    attestation=outcome.summary,
                    token=outcome.token.raw,
                )
            )
            return outcome.token

        result = self._release(arena, tpm_worker, prefetch.connections, token)
        return self.tell_of_ak_certificate(result)

    def resume(self) -> Result:
        """Release with the token that the job brings."""
        arena = self._attach()
        with self._stopwatch.step("import.network"):
            from skragent.releaser.connections import Connections  # noqa: PLC0415 - see above
        connections = self._network = Connections(self._job, self._waiting)
        unique = bytes(arena.view(unique_offset(len(self._job.keys)), UNIQUE_BYTES))
        tpm_worker = self._open_lane(unique, collects=False)
        with self._stopwatch.step("import.attest"):
            from skragent.attestation.token import resume_token  # noqa: PLC0415 - see above
        now = datetime.fromtimestamp(self._job.now, UTC)
        return self._release(
            *(arena, tpm_worker, connections),
            lambda: resume_token(
                self._job.token, now=now, wrapping_key=tpm_worker.key().rsa
            ),
        )

    def tell_of_ak_certificate(self, result: Result) -> Result:
        """Add how long the AK certificate holds, where the TPM said so."""
        tpm_worker = self._tpm_worker
        if tpm_worker is None or self._job.token:
            return result
        from skragent.releaser.ak_renewal import (  # noqa: PLC0415 - see above
            describe_ak_certificate,
        )

        now = self._job.now
        try:
            data = tpm_worker.evidence.result(timeout=0).ak_certificate
            described = describe_ak_certificate(
                data, now, tpm_worker.owns_ak_certificate
            )
        except (AgentError, TimeoutError):
            return result
        return msgspec.structs.replace(result, ak_certificate=described)

    def _attach(self) -> Arena:
        arena = attach_arena(self._job.arena_fd, self._job.arena_bytes)
        _HELD.append(arena)
        return arena

    def _open_lane(self, unique: bytes, *, collects: bool) -> TpmWorker:
        with self._stopwatch.step("import.tpm"):
            from skragent.releaser.tpm_worker import TpmWorker  # noqa: PLC0415 - see above
        tpm_worker = self._tpm_worker = TpmWorker(
            self._job.tcti, self._stopwatch, unique, collects=collects
        )
        return tpm_worker

    def _attest(self, tpm_worker: TpmWorker, prefetch: Prefetch) -> Future[Outcome]:
        with self._stopwatch.step("import.attest"):
            from skragent.releaser.attestation_stage import AttestationStage  # noqa: PLC0415 - see above
        job, stopwatch, notes = self._job, self._stopwatch, self._notes
        attestor = AttestationStage(
            job, tpm_worker, prefetch, self._waiting, stopwatch, notes=notes
        )
        return self._waiting.submit(attestor.run)

    def _release(
        self,
        arena: Arena,
        tpm_worker: TpmWorker,
        connections: Connections,
        token: Callable[[], AttestationToken],
    ) -> Result:
        job, stopwatch = self._job, self._stopwatch
        self._connections = connections
        with stopwatch.step("import.azure"):
            from skragent.releaser.vaults import Vaults  # noqa: PLC0415 - see above
        vaults = Vaults(job, connections, self._waiting, stopwatch)
        with stopwatch.step("import.release"):
            from skragent.release.roots import read_roots  # noqa: PLC0415 - see above
            from skragent.releaser.release_stage import ReleaseStage  # noqa: PLC0415 - see above
        bundle = read_roots(job.release_roots)
        where = f"trust.release_roots: {job.release_roots or 'the system'}"
        self._notes.add(where, bundle.skipped)
        step = ReleaseStage(
            token=token(),
            vaults=vaults,
            tpm_worker=tpm_worker,
            arena=arena,
            roots=bundle.roots,
            now=datetime.fromtimestamp(job.now, UTC),
            stopwatch=stopwatch,
        )
        releasing = ThreadPoolExecutor(len(job.keys), "release")
        under_way = {
            releasing.submit(step.run, number, key): key
            for number, key in enumerate(job.keys)
        }
        failed = []
        for outcome in gather(under_way):
            if isinstance(outcome, FailedKey):
                failure = self.name_clock(outcome.failure)
                failed.append(msgspec.structs.replace(outcome, failure=failure))
            else:
                self._emit(Result(is_last=False, released=(outcome,)))
        releasing.shutdown(wait=False, cancel_futures=True)
        return Result(failed=tuple(failed), timings=stopwatch.timings())
