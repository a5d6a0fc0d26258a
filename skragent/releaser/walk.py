"""One job from the vTPM to the arena: rooms 1, 2, 3, in the order of the story.

Everything that does not depend on each other runs side by side; the only sequence left
is connect, attest, release. The imports are part of it: they take longer than the
work (azure alone 240 ms), so each begins when something is there to wait for, always
in this one thread, because packages that are imported in two threads at once can meet
half-made modules.
"""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from skragent.errors import SkrAgentError, TransportError
from skragent.job import FailedKey, Identity, Job, KeyRequest, ReleasedKey, Result
from skragent.releaser.failures import describe_failure
from skragent.secretmem import attach_arena

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from concurrent.futures import Executor, Future

    from skragent.releaser.ahead import Ahead
    from skragent.releaser.tpm_lane import TpmLane
    from skragent.releaser.watch import Stopwatch
    from skragent.secretmem import Arena

# Waiting costs nothing: a thread for each thing to wait for, and many vaults to spare.
_WAITING_THREADS = 64
# Releases at once. The agent asks for no more keys of a vault than that releases at
# once, 10: so three vaults that hang keep no key of a fourth from its release.
_RELEASING_THREADS = 32
# A vault that hangs does so for a whole request's time, and keys that are home do not
# wait for it so long: the job ends this long after the last of them, unless somebody is
# late whose vault has released another key. Who was late comes in the next job, and who
# came home does not: so in the end everybody has all the time that a request may take.
_PATIENCE_SECONDS = 2.0

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
    releasing = ThreadPoolExecutor(_RELEASING_THREADS, "release")
    under_way = {
        releasing.submit(step.run, number, key): key
        for number, key in enumerate(job.keys)
    }
    results = list(_gather(under_way))
    releasing.shutdown(wait=False, cancel_futures=True)
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


def _gather(
    under_way: Mapping[Future[ReleasedKey | FailedKey], KeyRequest],
) -> Iterator[ReleasedKey | FailedKey]:
    """Give what came of each key, as soon as there is no patience with the others."""
    late = set(under_way)
    generous: set[tuple[str, Identity]] = set()  # who released a key, and to whom
    while late:
        # A failure ends nobody's time: it would come back in the next job too.
        is_hanging = generous.isdisjoint(_door(under_way[future]) for future in late)
        patience = _PATIENCE_SECONDS if generous and is_hanging else None
        done, late = wait(late, patience, FIRST_COMPLETED)
        if not done:
            break
        generous |= {
            _door(under_way[future])
            for future in done
            if isinstance(future.result(), ReleasedKey)
        }
    for future, key in under_way.items():
        yield _give_up(key) if future in late else future.result()


def _door(key: KeyRequest) -> tuple[str, Identity]:
    return key.vault, key.identity


def _give_up(key: KeyRequest) -> FailedKey:
    error = TransportError(
        f"{key.vault} has not answered for {key.name} yet, while other keys were"
        " released: it is asked again without them",
        code="transport.timeout",
    )
    return FailedKey(alias=key.alias, failure=describe_failure(error))
