"""The descriptors that systemd passes to the agent: sd_listen_fds(3).

An agent that cannot start rejects the credential connections that it inherited. systemd
would close them after the failure, and each of those units would start with an empty
credential.
"""

from __future__ import annotations

import os
import select
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from skragent.errors import ListenError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from skragent.agent.clock import Clock

# Less than TimeoutStartSec=, and long enough for a busy machine to read a rejection.
REJECT_SECONDS: Final = 30.0

# The first part of the names of stored descriptors: connections of units that wait for
# a credential, and memory of held keys.
CREDENTIAL_PREFIX: Final = "credential-"
KEY_PREFIX: Final = "key-"

_MAX_SHOWN: Final = 20  # characters of a variable


@dataclass(frozen=True, slots=True)
class Inherited:
    """The descriptors that systemd passes to the agent."""

    listeners: Mapping[str, socket.socket]  # by FileDescriptorName=
    credentials: tuple[tuple[str, socket.socket], ...] = ()  # stored connections
    keys: tuple[tuple[str, int], ...] = ()  # descriptors of the memory of held keys


def inherited_sockets(environment: Mapping[str, str]) -> Inherited:
    """Return the descriptors that systemd passes, and unset its variables.

    See sd_listen_fds(3). A descriptor that is neither a socket nor a held key's memory,
    such as a file of OpenFile=, is closed.

    Raises:
        ListenError: listen.inherited: the variables are malformed.
    """
    if "LISTEN_FDS" not in environment:
        return Inherited({})
    from systemd.daemon import listen_fds_with_names  # noqa: PLC0415 - only if systemd started the agent

    listeners: dict[str, socket.socket] = {}
    credentials: list[tuple[str, socket.socket]] = []
    keys: list[tuple[str, int]] = []
    try:
        passed = listen_fds_with_names(unset_environment=True)
    except (OSError, ValueError) as error:
        raise ListenError(
            f"LISTEN_FDS {environment['LISTEN_FDS'][:_MAX_SHOWN]!r} cannot be used:"
            f" {error}",
            code="listen.inherited",
            hint="If systemd did not start the agent, unset LISTEN_FDS.",
        ) from error
    for fd, name in sorted(passed.items()):
        if name.startswith(KEY_PREFIX):
            keys.append((name, fd))
        elif (sock := _socket_of(fd)) is None:
            continue
        elif name.startswith(CREDENTIAL_PREFIX):
            credentials.append((name, sock))
        else:
            listeners[name] = sock
    return Inherited(listeners, tuple(credentials), tuple(keys))


def _socket_of(fd: int) -> socket.socket | None:
    """Return a descriptor as a socket; close it if it is not one."""
    try:
        return socket.socket(fileno=fd)
    except OSError:
        os.close(fd)
        return None


def reject_connections(connections: Iterable[socket.socket], clock: Clock) -> None:
    """Reject all connections, and wait until the rejections are read."""
    from skragent.serving.credential_protocol import Rejection, end  # noqa: PLC0415 - rare

    deadline = clock.boottime() + REJECT_SECONDS
    connected = [sock for sock in connections if sock.fileno() >= 0]
    left = {sock.fileno(): (sock, Rejection(sock)) for sock in connected}
    poll = select.poll()
    for fd in left:
        poll.register(fd, select.POLLOUT)
    while left and (seconds := deadline - clock.boottime()) > 0:
        for fd, _event in poll.poll(seconds * 1000):
            sock, rejection = left[fd]
            if rejection.send():
                end(sock)
                poll.unregister(fd)
                del left[fd]
