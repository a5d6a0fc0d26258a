"""The bounds of a socket: nothing that a caller does is unbounded.

They are constants for now and one value, so that they can become settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# One read(2). More than a request's head, so that pipelined ones arrive together.
READ_BYTES: Final = 16 * 1024

MAX_HEADERS: Final = 64


@dataclass(frozen=True, slots=True)
class Limits:
    """What one socket admits. Seconds are counted in whole ticks of one second."""

    # A request's head, from its method to its empty line. nginx has 8 KiB lines.
    head_bytes: int = 8 * 1024
    # All stay below the 1024 descriptors that a process has unless it asks for more.
    connections: int = 768
    connections_per_uid: int = 384
    # From a request's first byte to its last one.
    head_seconds: int = 5
    # Between two requests. nginx: 75; clients that pool connections expect a minute.
    idle_seconds: int = 75
    # From an answer's first byte to its last one; slower readers are cut.
    send_seconds: int = 10
