"""An agent that cannot go on, and would be started again at once: it ends later.

systemd does not restart it on exit_codes.FINAL, but it starts it for every connection
that waits on its sockets, and one whose caller has given up waits there, too: three
starts a second, until somebody mends the configuration. So that the sockets stay as
they are, and a mended configuration is found without anybody's help, the agent keeps
what it has to say of itself in `systemctl status` for a while, and ends then.
"""

from __future__ import annotations

import select
import signal
from typing import TYPE_CHECKING, Final

from skragent.agent.signals import HANDLED, held_back

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

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
