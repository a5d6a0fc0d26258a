"""The overall deadline of a command: it holds whatever hangs.

A TPM that does not answer keeps libtss2 in a system call, which it repeats after each
signal; a directory service keeps getpwnam(3) in one. Python runs no signal handler
meanwhile. So a thread of its own counts the time, says what the command was doing, and
ends the process.

One command runs in a process, so there is one deadline: this module's.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Final

from skragent.agent.exit_codes import TEMPFAIL

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

CODE: Final = "command.timeout"

# Of commands that ask the agent, read files or look up names: all of it takes less than
# a second, or the 10 seconds after which a socket is given up.
USUAL_SECONDS: Final = 60.0
# What a command may take beyond a time that it was given, such as --wait.
MARGIN_SECONDS: Final = 30.0
# `set_defaults(deadline=NONE)`: of commands that run until they are stopped.
NONE: Final = None

_HINT: Final = "Check what it waited for, and run the command again."
_STDERR: Final = 2
# A full stderr that is not read must not keep the process.
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
        writer = threading.Thread(target=self._tell, daemon=True)
        writer.start()
        writer.join(_WRITE_SECONDS)
        os._exit(TEMPFAIL)

    def _tell(self) -> None:
        what = f"; it was {self.doing}" if self.doing else ""
        text = (
            f"skragent: {CODE}: `skragent {self._command}` did not end within"
            f" {self.seconds:g} s{what}\n  {_HINT}\n"
        )
        # Not through sys.stderr: the thread that hangs may hold its lock.
        os.write(_STDERR, text.encode(errors="backslashreplace"))


_current: _Deadline | None = None


def start(arguments: argparse.Namespace, command: str) -> None:
    """Start the deadline that the command's parser has as its default `deadline`.

    That is seconds, NONE, or a function from the arguments to one of these.
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


def doing(what: str) -> None:
    """Remember what the command does next, for the message of its deadline."""
    if _current is not None:
        _current.doing = what


def allow(seconds: float) -> None:
    """Let the command take longer, by a time that it was configured with."""
    if _current is not None:
        _current.seconds += seconds
