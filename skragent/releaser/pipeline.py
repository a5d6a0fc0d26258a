"""The stages of a release, and of a version check, from a `Job` to its `Result`.

A release attests (vTPM, IMDS, attestation provider) and then releases keys (vaults).
Everything that does not depend on each other runs side by side; only connecting,
attesting and releasing follow each other. A job that brings an attestation token makes
the token's wrapping key again and only releases.

The imports are part of the pipeline, because they take longer than the work (the Azure
libraries alone 240 ms). Each import begins when another thread has something to wait
for. All imports run in this one thread: a package that two threads import at once can
be seen half-initialised.
"""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

from skragent.errors import AgentError
from skragent.job import (
    UNIQUE_BYTES,
    FailedKey,
    Job,
    Result,
    unique_offset,
)
from skragent.releaser.job_io import Notes, describe_any_failure, describe_failure
from skragent.releaser.straggler_timeout import gather_outcomes
from skragent.secretmem import attach_arena

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from skragent.attestation.token import AttestationToken
    from skragent.job import Failure, KeyRequest
    from skragent.releaser.attestation_stage import Outcome
    from skragent.releaser.prefetch import Connections, Prefetch
    from skragent.releaser.stopwatch import Stopwatch
    from skragent.releaser.tpm_worker import TpmWorker
    from skragent.secretmem import Arena

# Threads for things to wait for. For each key: the vault's connection, the identity's
# token and the vault's warm-up. For the job: evidence, attestation, IMDS, the provider
# and Entra ID. A waiting thread costs some 20 KiB; with one too few, a key would wait
# behind a vault that hangs.
_WAITS_PER_KEY: Final = 3
_OTHER_WAITS: Final = 16

# An arena that is garbage-collected is wiped, and the agent shares its memory. So the
# releaser keeps the arena until it exits.
_kept_arenas: list[Arena] = []


def run_release(
    job: Job, stopwatch: Stopwatch, emit: Callable[[Result], None]
) -> Result:
    """Attest and release the keys of a job. Expected failures are in the result.

    Args:
        job: the job.
        stopwatch: measures the steps.
        emit: receives each part of the result but the last as soon as it is known.

    Returns:
        The last part of the result.
    """
    pipeline = _Pipeline(job, stopwatch, emit)
    try:
        result = pipeline.resume() if job.token else pipeline.run()
    except AgentError as error:
        failure = pipeline.explain_by_clock(describe_failure(error))
        failed = Result(failure=failure, timings=stopwatch.timings())
        result = pipeline.add_ak_certificate(failed)
    finally:
        pipeline.close()
    return pipeline.add_notes(result)


def run_version_check(job: Job, stopwatch: Stopwatch) -> Result:
    """Ask the vaults for the latest version of each key, without attestation.

    A rotation is noticed long before the next release is due, by a GET of a few bytes.
    The failure of one key does not affect the others.
    """
    from skragent.releaser.prefetch import Connections  # noqa: PLC0415 - see above
    from skragent.releaser.vault_clients import Vaults  # noqa: PLC0415 - see above

    with (
        _make_executor(job) as waiting,
        ThreadPoolExecutor(len(job.keys), "check") as checking,
    ):
        vaults = Vaults(job, Connections(job, waiting), waiting, stopwatch)

        def check(key: KeyRequest) -> str | FailedKey:
            try:
                return vaults.latest_version(key)
            except Exception as error:  # noqa: BLE001 - the other keys go on
                return FailedKey(alias=key.alias, failure=describe_any_failure(error))

        outcomes = list(checking.map(check, job.keys))
    return Result(
        versions={
            key.alias: outcome
            for key, outcome in zip(job.keys, outcomes, strict=True)
            if isinstance(outcome, str)
        },
        failed=tuple(outcome for outcome in outcomes if isinstance(outcome, FailedKey)),
        timings=stopwatch.timings(),
    )


def _make_executor(job: Job) -> ThreadPoolExecutor:
    """Return threads for everything but the requests that release or check keys."""
    return ThreadPoolExecutor(_OTHER_WAITS + _WAITS_PER_KEY * len(job.keys), "wait")


class _Pipeline:
    """The state that the stages of one release share."""

    def __init__(
        self, job: Job, stopwatch: Stopwatch, emit: Callable[[Result], None]
    ) -> None:
        self._job = job
        self._stopwatch = stopwatch
        self._emit = emit
        self._tpm_worker: TpmWorker | None = None
        self._connections: Connections | None = None
        self._network: Prefetch | Connections | None = None  # knows Azure's clocks
        self._notes = Notes()
        self._executor = _make_executor(job)

    def close(self) -> None:
        """Close the TPM."""
        if self._tpm_worker is not None:
            self._tpm_worker.close()

    def explain_by_clock(self, failure: Failure) -> Failure:
        """Name this VM's clock in a failure that a wrong clock can cause."""
        if self._network is None:
            return failure
        from skragent.releaser.clock_check import explain_by_clock  # noqa: PLC0415 - rare

        return explain_by_clock(failure, self._network.dates, self._job.now)

    def add_notes(self, result: Result) -> Result:
        """Add the notes to a result, whether or not the job succeeded."""
        if self._connections is not None:
            about = f"trust.tls_roots: {self._job.tls_roots or 'the system'}"
            self._notes.add(about, self._connections.http.skipped_roots)
        return msgspec.structs.replace(result, notes=self._notes.all())

    def add_ak_certificate(self, result: Result) -> Result:
        """Add the end of the AK certificate's life if the TPM has returned it."""
        worker = self._tpm_worker
        if worker is None or self._job.token:
            return result
        from skragent.releaser.ak_renewal import (  # noqa: PLC0415 - see above
            describe_ak_certificate,
        )

        now = self._job.now
        try:
            data = worker.evidence.result(timeout=0).ak_certificate
            described = describe_ak_certificate(data, now, worker.owns_ak_certificate)
        except (AgentError, TimeoutError):
            return result
        return msgspec.structs.replace(result, ak_certificate=described)

    def run(self) -> Result:
        """Attest and release."""
        arena = self._attach()
        with self._stopwatch.step("import.network"):
            from skragent.releaser.prefetch import Prefetch  # noqa: PLC0415 - see above
        prefetch = self._network = Prefetch(self._job, self._executor, self._stopwatch)
        # Random: knowing `unique` is enough to make the wrapping key again on this TPM.
        unique = secrets.token_bytes(UNIQUE_BYTES)
        arena.view(unique_offset(len(self._job.keys)), UNIQUE_BYTES)[:] = unique
        worker = self._start_tpm_worker(unique, collects=True)
        attesting = self._attest(worker, prefetch)

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

        result = self._release(arena, worker, prefetch.connections, token)
        return self.add_ak_certificate(result)

    def resume(self) -> Result:
        """Release with the token that the job brings."""
        arena = self._attach()
        with self._stopwatch.step("import.network"):
            from skragent.releaser.prefetch import Connections  # noqa: PLC0415 - see above
        connections = self._network = Connections(self._job, self._executor)
        unique = bytes(arena.view(unique_offset(len(self._job.keys)), UNIQUE_BYTES))
        worker = self._start_tpm_worker(unique, collects=False)
        with self._stopwatch.step("import.attest"):
            from skragent.attestation.token import resume_token  # noqa: PLC0415 - see above
        now = datetime.fromtimestamp(self._job.now, UTC)
        return self._release(
            *(arena, worker, connections),
            lambda: resume_token(
                self._job.token, now=now, wrapping_key=worker.key().rsa
            ),
        )

    def _attach(self) -> Arena:
        arena = attach_arena(self._job.arena_fd, self._job.arena_bytes)
        _kept_arenas.append(arena)
        return arena

    def _start_tpm_worker(self, unique: bytes, *, collects: bool) -> TpmWorker:
        with self._stopwatch.step("import.tpm"):
            from skragent.releaser.tpm_worker import TpmWorker  # noqa: PLC0415 - see above
        worker = self._tpm_worker = TpmWorker(
            self._job.tcti, self._stopwatch, unique, collects=collects
        )
        return worker

    def _attest(self, worker: TpmWorker, prefetch: Prefetch) -> Future[Outcome]:
        with self._stopwatch.step("import.attest"):
            from skragent.releaser.attestation_stage import (  # noqa: PLC0415 - see above
                AttestationStage,
            )
        stage = AttestationStage(
            *(self._job, worker, prefetch, self._executor, self._stopwatch),
            notes=self._notes,
        )
        return self._executor.submit(stage.run)

    def _release(
        self,
        arena: Arena,
        worker: TpmWorker,
        connections: Connections,
        token: Callable[[], AttestationToken],
    ) -> Result:
        job, stopwatch = self._job, self._stopwatch
        self._connections = connections
        with stopwatch.step("import.azure"):
            from skragent.releaser.vault_clients import Vaults  # noqa: PLC0415 - see above
        vaults = Vaults(job, connections, self._executor, stopwatch)
        with stopwatch.step("import.release"):
            from skragent.release.signature_roots import read_roots  # noqa: PLC0415 - see above
            from skragent.releaser.release_stage import ReleaseStage  # noqa: PLC0415 - see above
        bundle = read_roots(job.release_roots)
        about = f"trust.release_roots: {job.release_roots or 'the system'}"
        self._notes.add(about, bundle.skipped)
        stage = ReleaseStage(
            token=token(),
            vaults=vaults,
            tpm_worker=worker,
            arena=arena,
            roots=bundle.roots,
            now=datetime.fromtimestamp(job.now, UTC),
            stopwatch=stopwatch,
        )
        releasing = ThreadPoolExecutor(len(job.keys), "release")
        under_way = {
            releasing.submit(stage.run, number, key): key
            for number, key in enumerate(job.keys)
        }
        failed = []
        for outcome in gather_outcomes(under_way):
            if isinstance(outcome, FailedKey):
                failure = self.explain_by_clock(outcome.failure)
                failed.append(msgspec.structs.replace(outcome, failure=failure))
            else:
                self._emit(Result(is_last=False, released=(outcome,)))
        releasing.shutdown(wait=False, cancel_futures=True)
        return Result(failed=tuple(failed), timings=stopwatch.timings())
