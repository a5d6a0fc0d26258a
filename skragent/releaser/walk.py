"""One job from the vTPM to the arena: rooms 1, 2, 3, in the order of the story.

Everything that does not depend on each other runs side by side; the only sequence left
is connect, attest, release. The imports are part of it: they take longer than the
work (azure alone 240 ms), so each begins when something is there to wait for, always
in this one thread, because packages that are imported in two threads at once can meet
half-made modules.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from skragent.errors import SkrAgentError
from skragent.job import FailedKey, Job, ReleasedKey, Result
from skragent.releaser.failures import describe_failure
from skragent.secretmem import attach_arena

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from skragent.releaser.ahead import Ahead
    from skragent.releaser.tpm_lane import TpmLane
    from skragent.releaser.watch import Stopwatch
    from skragent.secretmem import Arena

# Waiting costs nothing: a thread for each thing to wait for, and vaults to spare.
_WAITING_THREADS = 16
# Releases at once. The agent asks for no more keys of a vault than that releases at
# once, 10: so three vaults that hang keep no key of a fourth from its release.
_RELEASING_THREADS = 32

# Whoever lets go of an arena wipes it, and it is the agent's memory too: this process
# holds it to its end.
_HELD: list[Arena] = []


def run_job(job: Job, watch: Stopwatch) -> Result:
    """Do a job; every failure that has a name is in the result."""
    lane: TpmLane | None = None
    try:
        arena = attach_arena(job.arena_fd, job.arena_bytes)
        _HELD.append(arena)
        waiting = ThreadPoolExecutor(_WAITING_THREADS, "wait")
        with watch.step("import.network"):
            from skragent.releaser.ahead import Ahead  # noqa: PLC0415 - see above
        ahead = Ahead(job, waiting, watch)
        with watch.step("import.tpm"):
            from skragent.releaser.tpm_lane import TpmLane  # noqa: PLC0415 - see above
        lane = TpmLane(job.tcti, watch)
        return _walk(job, arena, lane, ahead, waiting, watch=watch)
    except SkrAgentError as error:
        result = Result(failure=describe_failure(error), timings=watch.timings())
        return _tell_of_ak_certificate(job, lane, result)
    finally:
        if lane is not None:
            lane.close()


def _walk(
    job: Job,
    arena: Arena,
    lane: TpmLane,
    ahead: Ahead,
    waiting: Executor,
    *,
    watch: Stopwatch,
) -> Result:
    with watch.step("import.attest"):
        from skragent.releaser.attest import Attestor  # noqa: PLC0415 - see above
    attesting = waiting.submit(Attestor(job, lane, ahead, waiting, watch).run)
    with watch.step("import.azure"):
        from skragent.releaser.vaults import Vaults  # noqa: PLC0415 - see above
    vaults = Vaults(job, ahead.connections, waiting, watch)
    with watch.step("import.release"):
        from skragent.release.roots import read_roots  # noqa: PLC0415 - see above
        from skragent.releaser.keys import KeyStep  # noqa: PLC0415 - see above
    roots = read_roots(job.release_roots)
    outcome = attesting.result()
    step = KeyStep(
        token=outcome.token,
        vaults=vaults,
        lane=lane,
        arena=arena,
        roots=roots,
        now=datetime.fromtimestamp(job.now, UTC),
        watch=watch,
    )
    with ThreadPoolExecutor(_RELEASING_THREADS, "release") as releasing:
        results = list(releasing.map(step.run, range(len(job.keys)), job.keys))
    result = Result(
        attestation=outcome.summary,
        released=tuple(r for r in results if isinstance(r, ReleasedKey)),
        failed=tuple(r for r in results if isinstance(r, FailedKey)),
        timings=watch.timings(),
    )
    return _tell_of_ak_certificate(job, lane, result)


def _tell_of_ak_certificate(job: Job, lane: TpmLane | None, result: Result) -> Result:
    """Add how long the AK certificate holds, where the TPM said so."""
    if lane is None:
        return result
    from skragent.releaser.renew import (  # noqa: PLC0415 - see above
        describe_ak_certificate,
    )

    try:
        data = lane.evidence.result(timeout=0).ak_certificate
        described = describe_ak_certificate(data, job.now, lane.owns_ak_certificate)
    except (SkrAgentError, TimeoutError):
        return result
    return msgspec.structs.replace(result, ak_certificate=described)
