"""The signals that the agent acts on, each when it can.

While it starts they wait: an agent that ends at once leaves the units whose connections
it was handed to an empty credential.
"""

from __future__ import annotations

import signal
from typing import Final

STOPPING: Final = (signal.SIGTERM, signal.SIGINT)
HANDLED: Final = (*STOPPING, signal.SIGHUP)


def hold_back() -> None:
    """Let all of them wait, from now on."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)


def let_through() -> None:
    """Let those come that waited, and all after them."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
