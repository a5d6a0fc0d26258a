"""How many descriptors the agent may have open: enough for all that it admits."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from skragent.config import ServingConfig

# api.sock and admin.sock admit as many connections as the configuration says. What
# credentials.sock and the metrics admit, a releaser's pipes, and all the rest:
_OTHERS: Final = 1024 + 32 + 128
_SOCKETS: Final = 2


def descriptors_for(serving: ServingConfig) -> int:
    """Count what may be open at once."""
    return _SOCKETS * serving.connections + _OTHERS


def allow_descriptors(wanted: int) -> int:
    """Raise our own limit as far as it is needed and allowed; gives the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        return most
    return soft
