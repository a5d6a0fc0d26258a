"""Signals, the limit of descriptors, and the delay of an exit.

Signals are blocked during the start. An agent that ends at a signal then would not
reject the connections that it inherited, and their units would get an empty credential.
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

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
HANDLED_SIGNALS: Final = (*STOP_SIGNALS, signal.SIGHUP)

EXIT_DELAY_SECONDS: Final = 10.0

# api.sock and admin.sock accept as many connections as the configuration says. Others
# are for credentials.sock, for scrapers, and for pipes and files.
_SOCKETS: Final = 2
_OTHERS: Final = 1024 + 32 + 128


@contextlib.contextmanager
def block_signals() -> Iterator[None]:
    """Block the signals until `unblock_signals`, or until the end of the context.

    At the end of the context the signal mask is as before.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def unblock_signals() -> None:
    """Deliver the signals that came while they were blocked, and all later ones."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED_SIGNALS)


def has_terminal() -> bool:
    """Return whether the agent has a terminal, whose end is a SIGHUP: setsid(2)."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def count_descriptors(serving: ServingConfig) -> int:
    """Return the descriptors that the agent may need at the same time."""
    return _SOCKETS * serving.connections + _OTHERS


def explain_low_limit(serving: ServingConfig, allowed: int) -> str:
    """Return what to do if the limit is too low; empty if it is not."""
    wanted = count_descriptors(serving)
    if allowed >= wanted:
        return ""
    return (
        f"{allowed} descriptors are allowed, and serving.connections ="
        f" {serving.connections} may need {wanted}: raise LimitNOFILE="
        " of the unit (ulimit -Hn), or admit fewer"
    )


def raise_descriptor_limit(wanted: int) -> int:
    """Raise the limit as far as necessary and permitted; return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        return most
    return soft


def has_connection(listeners: Iterable[socket.socket]) -> bool:
    """Return whether a connection waits on one of these sockets."""
    poll = select.poll()
    for listener in listeners:
        poll.register(listener, select.POLLIN)
    return bool(poll.poll(0))


def delay_exit() -> None:
    """Wait for EXIT_DELAY_SECONDS, or until a signal requests an end or a reload."""
    with block_signals():
        signal.sigtimedwait(HANDLED_SIGNALS, EXIT_DELAY_SECONDS)
