"""How long the tests wait: for an event, never for a guess about the machine's speed.

A machine that is busy with other work makes tests slower and must not make them fail.
So there are two limits and no others: `tests/unit/test_suite_waits.py` sees to that.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# For an event that must come: only a test that hangs reaches it. pytest's own limit
# (pyproject.toml) is longer, because it cannot say what did not happen.
DEADLINE_SECONDS = 180.0
DEADLINE_MILLISECONDS = int(DEADLINE_SECONDS * 1000)

# For a timeout of the code under test that must run out, where nothing else has to
# happen before it does.
SHORT_SECONDS = 0.05

_PAUSE_SECONDS = 0.01


@contextlib.contextmanager
def takes_at_least(seconds: float) -> Iterator[None]:
    """Hold a block to the time that it must take; a busy machine only adds to it."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began >= seconds


def wait_until(
    is_so: Callable[[], bool], explain: Callable[[], str] = lambda: ""
) -> None:
    """Wait until something is so that another thread or process does.

    Args:
        is_so: looks at it; is called again and again.
        explain: tells what a reader needs to know if it does not come to be.
    """
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, explain()
        time.sleep(_PAUSE_SECONDS)  # noqa: TID251 - no event tells when
