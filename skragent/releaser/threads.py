"""How many threads a job has: one for each thing that it may wait for.

A thread that waits costs some 20 KiB. With one too few, a key waits behind vaults that
hang, for the whole time of an exchange.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from skragent.job import Job

# Of each key at most: its vault's connection, its identity's token, and its warm-up.
_WAITS_OF_A_KEY: Final = 3
# Of the rest of a job: evidence, attestation, IMDS, the provider, Entra ID.
_OTHER_WAITS: Final = 16


def waiting_threads(job: Job) -> int:
    """Return how many threads can wait beside those that release or check keys."""
    return _OTHER_WAITS + _WAITS_OF_A_KEY * len(job.keys)
