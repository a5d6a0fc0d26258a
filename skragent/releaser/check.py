"""A check: what are the latest versions? No evidence, no token, no key bytes.

So a rotation is noticed long before the next release is due, for a GET of a few bytes.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from skragent.job import FailedKey, Result
from skragent.releaser.connections import Connections
from skragent.releaser.failures import describe_any_failure
from skragent.releaser.threads import waiting_threads
from skragent.releaser.vaults import Vaults

if TYPE_CHECKING:
    from skragent.job import Job, KeyRequest
    from skragent.releaser.stopwatch import Stopwatch


def run_check(job: Job, stopwatch: Stopwatch) -> Result:
    """Ask for every key of a job; each failure is its key's own."""
    with (
        ThreadPoolExecutor(waiting_threads(job), "wait") as waiting,
        ThreadPoolExecutor(len(job.keys), "check") as checking,
    ):
        vaults = Vaults(job, Connections(job, waiting), waiting, stopwatch)

        def ask(key: KeyRequest) -> str | FailedKey:
            try:
                return vaults.latest_version(key)
            except Exception as error:  # noqa: BLE001 - the other keys go on
                return FailedKey(alias=key.alias, failure=describe_any_failure(error))

        answers = list(checking.map(ask, job.keys))
    return Result(
        versions={
            key.alias: answer
            for key, answer in zip(job.keys, answers, strict=True)
            if isinstance(answer, str)
        },
        failed=tuple(answer for answer in answers if isinstance(answer, FailedKey)),
        timings=stopwatch.timings(),
    )
