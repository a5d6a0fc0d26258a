"""The signals that the agent acts on, each when it can.

While it starts they wait: an agent that ends at once leaves the units whose connections
it was handed to an empty credential.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Iterator

    from skragent.config import ServingConfig

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


LINGER_SECONDS: Final = 10.0


def is_asked(listeners: Iterable[socket.socket]) -> bool:
    """Tell whether somebody waits on one of these sockets."""
    poll = select.poll()
    for listener in listeners:
        poll.register(listener, select.POLLIN)
    return bool(poll.poll(0))


def linger() -> None:
    """Wait for LINGER_SECONDS, or until a signal tells us to end or to look again."""
    with held_back():
        signal.sigtimedwait(HANDLED, LINGER_SECONDS)
