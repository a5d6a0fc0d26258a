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


def too_few(serving: ServingConfig, allowed: int) -> str:
    """Say what to do where fewer are allowed than may be needed; else nothing."""
    wanted = descriptors_for(serving)
    if allowed >= wanted:
        return ""
    return (
        f"{allowed} descriptors are allowed, and serving.connections ="
        f" {serving.connections} may need {wanted}: raise LimitNOFILE="
        " of the unit (ulimit -Hn), or admit fewer"
    )


def allow_descriptors(wanted: int) -> int:
    """Raise our own limit as far as it is needed and allowed; gives the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        return most
    return soft
