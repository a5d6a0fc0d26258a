"""Credential connections that an agent was handed, and cannot serve: it does not start.

systemd closes what it stores for a unit that has failed or stopped, and each of them
would be an empty credential, with which its unit starts. So they are refused.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Final

from skragent.serving.rejection import Rejection, end

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

    from skragent.agent.clock import Clock

# Less than TimeoutStartSec=, and long enough for a busy machine to read it all.
REFUSE_SECONDS: Final = 30.0


def refuse_orphans(connections: Iterable[socket.socket], clock: Clock) -> None:
    """Refuse all of them, and wait until that is taken."""
    deadline = clock.boottime() + REFUSE_SECONDS
    open_ones = [sock for sock in connections if sock.fileno() >= 0]
    left = {sock.fileno(): (sock, Rejection(sock)) for sock in open_ones}
    poll = select.poll()
    for fd in left:
        poll.register(fd, select.POLLOUT)
    while left and (seconds := deadline - clock.boottime()) > 0:
        for fd, _event in poll.poll(seconds * 1000):
            sock, refusal = left[fd]
            if refusal.send():
                end(sock)
                poll.unregister(fd)
                del left[fd]
