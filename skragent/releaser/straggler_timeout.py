"""The time that a job waits for its slowest keys once other keys are released.

A vault that hangs does so for the whole timeout of a request. The job of the other keys
must not last as long. So the job ends `STRAGGLER_TIMEOUT_SECONDS` after the latest
release, unless a missing key is of a vault and identity that released another key.
The agent asks for the missing keys in a job of their own, where they have the whole
timeout of a request.
"""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TYPE_CHECKING

from skragent.errors import TransportError
from skragent.job import FailedKey, ReleasedKey
from skragent.releaser.job_io import describe_failure

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from skragent.identity import Identity
    from skragent.job import KeyRequest

STRAGGLER_TIMEOUT_SECONDS = 2.0


def gather_outcomes(
    under_way: Mapping[Future[ReleasedKey | FailedKey], KeyRequest],
) -> Iterator[ReleasedKey | FailedKey]:
    """Yield the outcome of every key as soon as it is known.

    The outcome of a key that misses the straggler timeout is transport.timeout.

    Args:
        under_way: the key of each future. A future's result is its outcome; a future
            never raises.
    """
    pending = set(under_way)
    responsive: set[tuple[str, Identity]] = (
        set()
    )  # vaults and identities with a release
    while pending:
        # A failed key starts no timeout: it would fail in the next job too.
        are_all_silent = responsive.isdisjoint(
            _vault_and_identity(under_way[future]) for future in pending
        )
        has_timeout = responsive and are_all_silent
        done, pending = wait(
            pending,
            STRAGGLER_TIMEOUT_SECONDS if has_timeout else None,
            FIRST_COMPLETED,
        )
        if not done:
            break
        responsive |= {
            _vault_and_identity(under_way[future])
            for future in done
            if isinstance(future.result(), ReleasedKey)
        }
        for future in done:
            yield future.result()
    for future in pending:
        yield _time_out(under_way[future])


def _vault_and_identity(key: KeyRequest) -> tuple[str, Identity]:
    return key.vault, key.identity


def _time_out(key: KeyRequest) -> FailedKey:
    error = TransportError(
        f"{key.vault} has not answered for {key.name} yet, while other keys were"
        " released: the key is requested again by itself",
        code="transport.timeout",
    )
    return FailedKey(alias=key.alias, failure=describe_failure(error))
