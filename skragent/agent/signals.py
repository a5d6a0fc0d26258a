"""The signals that the agent acts on, each when it can.

While it starts they wait: an agent that ends at once leaves the units whose connections
it was handed to an empty credential.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

STOPPING: Final = (signal.SIGTERM, signal.SIGINT)
HANDLED: Final = (*STOPPING, signal.SIGHUP)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Let all of them wait, until `let_through` or the context's end.

    A start that failed leaves the mask as it was, for whatever the process does next.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def let_through() -> None:
    """Let those come that waited, and all after them."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)


def has_terminal() -> bool:
    """Tell whether a terminal controls us, whose end is a SIGHUP: setsid(2)."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
