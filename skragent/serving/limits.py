"""The bounds of a socket: nothing that a caller does is unbounded.

Settings of the configuration's [serving] (config.ServingConfig), which says what each
of them means.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from skragent.config import ServingConfig

# One read(2). More than a request's head, so that pipelined ones arrive together.
READ_BYTES: Final = 16 * 1024

MAX_HEADERS: Final = 64


@dataclass(frozen=True, slots=True)
class Limits:
    """What one socket admits. Seconds are counted in whole ticks of one second."""

    # All connections stay below the 1024 descriptors that a process has unless it
    # asks for more; and one user cannot take what is there for all.
    connections: int = 768
    connections_per_uid: int = 384
    requests_in_flight: int = 640  # answers that are not taken yet, and long-polls
    long_polls: int = 512
    answers_per_second_per_uid: int = 10_000
    # A request's head, from its method to its empty line. nginx has 8 KiB lines.
    head_bytes: int = 8 * 1024
    body_bytes: int = 16 * 1024
    # From a request's first byte to its last one.
    head_timeout_seconds: int = 5
    # Between two requests. nginx: 75; clients that pool connections expect a minute.
    idle_timeout_seconds: int = 75
    # From an answer's first byte to its last one; slower readers are cut.
    send_timeout_seconds: int = 10


def limits_of(settings: ServingConfig) -> Limits:
    """Take the bounds from the configuration."""
    return Limits(**{f.name: getattr(settings, f.name) for f in fields(Limits)})
