"""The overall deadline of a command, which also ends a blocked system call.

A TPM that does not respond keeps libtss2 in a system call, which libtss2 repeats after
each signal. A directory service can block getpwnam(3). Python runs no signal handler
in this time. So a thread measures the time, reports the command's current action, and
ends the process.

One process runs one command, so the module has one deadline.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Final

from skragent.cli.standard_streams import format_error
from skragent.exit_codes import TEMPFAIL

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

CODE: Final = "command.timeout"

# For commands that send a request to the agent, read files or look up names. Each of
# these takes less than a second, or the 10 seconds of a request's timeout.
USUAL_SECONDS: Final = 60.0
# Added to a time that the user chose, such as --wait.
MARGIN_SECONDS: Final = 30.0
# `set_defaults(deadline=NONE)`: for commands that run until the user stops them.
NONE: Final = None

_HINT: Final = "Find out why this did not respond, and repeat the command."
_STDERR: Final = 2
# A full pipe without a reader must not keep the process running.
_WRITE_SECONDS: Final = 1.0


class _Deadline:
    def __init__(self, command: str, seconds: float) -> None:
        self.doing = ""
        self.seconds = seconds
        self._command = command
        self._began = time.monotonic()
        self._ended = threading.Event()
        threading.Thread(target=self._watch, name="deadline", daemon=True).start()

    def end(self) -> None:
        self._ended.set()

    def _watch(self) -> None:
        while (left := self._began + self.seconds - time.monotonic()) > 0:
            if self._ended.wait(left):
                return
        writer = threading.Thread(target=self._report, daemon=True)
        writer.start()
        writer.join(_WRITE_SECONDS)
        os._exit(TEMPFAIL)

    def _report(self) -> None:
        action = f"; the command was {self.doing}" if self.doing else ""
        message = (
            f"`skragent {self._command}` did not end within {self.seconds:g} s{action}"
        )
        text = format_error(CODE, message, _HINT) + "\n"
        # Not by sys.stderr: the blocked thread may hold its lock.
        os.write(_STDERR, text.encode(errors="backslashreplace"))


_current: _Deadline | None = None


def start(arguments: argparse.Namespace, command: str) -> None:
    """Start the deadline of a command: its parser's default for `deadline`.

    The default is a number of seconds, NONE, or a function from the arguments to one
    of these.
    """
    global _current  # noqa: PLW0603 - see the module's docstring
    chosen: float | Callable[[argparse.Namespace], float | None] | None
    chosen = getattr(arguments, "deadline", USUAL_SECONDS)
    seconds = chosen(arguments) if callable(chosen) else chosen
    _current = None if seconds is NONE else _Deadline(command, seconds)


def stop() -> None:
    """Stop the deadline: the command has ended."""
    global _current  # noqa: PLW0603 - see the module's docstring
    if _current is not None:
        _current.end()
        _current = None


def doing(action: str) -> None:
    """Store the command's current action, for the message of its deadline."""
    if _current is not None:
        _current.doing = action


def allow(seconds: float) -> None:
    """Extend the deadline by a configured time."""
    if _current is not None:
        _current.seconds += seconds
