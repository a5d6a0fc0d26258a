"""Whom a job waits for: keys that are home do not wait for a vault that hangs."""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TYPE_CHECKING

from skragent.errors import TransportError
from skragent.job import FailedKey, ReleasedKey
from skragent.releaser.failures import describe_failure

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from skragent.job import Identity, KeyRequest

# A vault that hangs does so for a whole request's time, and keys that are home do not
# wait for it so long: the job ends this long after the last of them, unless somebody is
# late whose vault has released another key. Who was late comes in the next job, and who
# came home does not: so in the end everybody has all the time that a request may take.
STRAGGLER_TIMEOUT_SECONDS = 2.0


def gather(
    under_way: Mapping[Future[ReleasedKey | FailedKey], KeyRequest],
) -> Iterator[ReleasedKey | FailedKey]:
    """Give each outcome as it comes, until there is no patience with the others."""
    late = set(under_way)
    generous: set[tuple[str, Identity]] = set()  # who released a key, and to whom
    while late:
        # A failure ends nobody's time: it would come back in the next job too.
        is_hanging = generous.isdisjoint(_door(under_way[future]) for future in late)
        patience = STRAGGLER_TIMEOUT_SECONDS if generous and is_hanging else None
        done, late = wait(late, patience, FIRST_COMPLETED)
        if not done:
            break
        generous |= {
            _door(under_way[future])
            for future in done
            if isinstance(future.result(), ReleasedKey)
        }
        for future in done:
            yield future.result()
    for future in late:
        yield _give_up(under_way[future])


def _door(key: KeyRequest) -> tuple[str, Identity]:
    return key.vault, key.identity


def _give_up(key: KeyRequest) -> FailedKey:
    error = TransportError(
        f"{key.vault} has not answered for {key.name} yet, while other keys were"
        " released: it is asked again without them",
        code="transport.timeout",
    )
    return FailedKey(alias=key.alias, failure=describe_failure(error))
