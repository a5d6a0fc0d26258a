"""What the releaser does to itself before it does anything else.

Imports nothing but the standard library: it comes before the rest is even loaded.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_STDOUT: Final = 1


def harden() -> None:
    """Die with the agent; leave no core; be no one's to trace."""
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_PR_SET_PDEATHSIG, signal.SIGKILL), (_PR_SET_DUMPABLE, 0)):
        if libc.prctl(option, int(value), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), f"prctl({option})")
    # An agent that died before prctl(2) sends no signal. Nothing reads stdout then, and
    # poll(2) reports that whatever it is asked for.
    poll = select.poll()
    poll.register(_STDOUT, 0)
    if any(events & select.POLLERR for _, events in poll.poll(0)):
        os._exit(os.EX_NOINPUT)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The agent holds some back while it starts, and with it the first of us.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
