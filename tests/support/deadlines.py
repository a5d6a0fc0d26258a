"""The time limits of all tests.

On a busy machine tests are slower, but must not fail. So tests wait for events, and
there are only two limits; `tests/unit/test_suite_waits.py` checks that.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# The limit for an event that must happen; only a test that hangs reaches it. pytest's
# own timeout (pyproject.toml) is longer, because it cannot name the missing event.
DEADLINE_SECONDS = 180.0
DEADLINE_MILLISECONDS = int(DEADLINE_SECONDS * 1000)

# For a timeout of the code under test that must expire, if no other event has to
# happen before.
SHORT_SECONDS = 0.05

_PAUSE_SECONDS = 0.01


@contextlib.contextmanager
def takes_at_least(seconds: float) -> Iterator[None]:
    """Check the minimum time of a block; a busy machine only adds time."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began >= seconds


def wait_until(
    is_so: Callable[[], bool], explain: Callable[[], str] = lambda: ""
) -> None:
    """Wait for a condition that another thread or process causes.

    Args:
        is_so: checks the condition; it is called repeatedly.
        explain: returns the failure message.
    """
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, explain()
        time.sleep(_PAUSE_SECONDS)  # noqa: TID251 - no event tells when
