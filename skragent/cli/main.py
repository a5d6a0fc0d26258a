"""`skragent`: the one command, and the last stop of every error.

A command's module is imported only when it is the one that runs: what the others need
would cost the agent its start and its memory. Exit codes: skragent.agent.exit_codes.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from typing import TYPE_CHECKING, Final

from skragent import __version__
from skragent.agent.exit_codes import (
    CANTCREAT,
    INTERRUPTED,
    OK,
    SOFTWARE,
    exit_code_of,
)
from skragent.cli import deadline
from skragent.cli.failure import tell
from skragent.cli.streams import prepare_streams
from skragent.errors import AgentError

if TYPE_CHECKING:
    from collections.abc import Sequence

# In the order of `skragent --help`. Each module has add_parser(commands). Defaults of
# its parser are `run`, a function from the arguments to the exit code, and `deadline`.
_COMMANDS: Final = {
    "run": "the agent itself: what systemd starts",
    "get": "fetch a key from the running agent",
    "status": "show what the agent holds, and what keeps it from the rest",
    "refresh": "have keys released now: those that are named, or all but dropped ones",
    "reload": "have the agent read its configuration again",
    "drop": "wipe a key now, and keep it away",
    "wait": "wait until keys are held: those that are named, or all of them",
    "check-config": "find every problem of a configuration file",
    "report": "decode and check an attestation report",
    "emulator": "a small Azure and a confidential VM on this machine",
    "demo": "show a key being released and served, on the embedded emulator",
}


_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit code."""
    prepare_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _run(words)
        return _write_out(code)
    except SystemExit as ended:  # argparse: it printed its help, or what is wrong
        raise SystemExit(_write_out(int(ended.code or OK))) from None
    finally:
        deadline.stop()


def _run(words: list[str]) -> int:
    try:
        namespace = _build_parser(words).parse_args(words)
        deadline.start(namespace, _command_of(words))
        code: int = namespace.run(namespace)
    except AgentError as error:
        tell(error)
        return exit_code_of(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return OK  # who read us has gone, which is their right
    except Exception as error:  # noqa: BLE001 - the last stop: no traceback for a user
        if isinstance(error, OSError) and _is_full(error):
            return _cannot_write(error)
        _apologize(error)
        return SOFTWARE
    return code


def _write_out(code: int) -> int:
    """Write what was printed; the interpreter would end with 120 where that fails."""
    if sys.stdout is None:  # started with it closed
        return code
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if code == OK and not isinstance(error, BrokenPipeError):
            return _cannot_write(error)
    return code


def _is_full(error: OSError) -> bool:
    """Tell whether write(2) said that stdout takes no more."""
    return error.errno in _NO_ROOM and error.filename is None


def _cannot_write(error: OSError) -> int:
    print(f"skragent: output: stdout: {error.strerror}", file=sys.stderr)
    return CANTCREAT


def _apologize(error: Exception) -> None:
    """Say where a bug of ours is; not what it says: that could be anything."""
    import traceback  # noqa: PLC0415 - every start of the agent would wait for it

    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "?"
    print(f"skragent: internal: {type(error).__name__} at {place}", file=sys.stderr)
    print("  This is a bug: please report it.", file=sys.stderr)


def _command_of(words: list[str]) -> str:
    return next((word for word in words if not word.startswith("-")), "")


def _build_parser(words: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="skragent",
        description="Secure Key Release for everyone on an Azure confidential VM.",
        epilog="`skragent COMMAND --help` tells more of each.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    wanted = _command_of(words)
    for name, summary in _COMMANDS.items():
        if name == wanted:
            module = importlib.import_module(f"skragent.cli.{name.replace('-', '_')}")
            module.add_parser(commands)
        else:
            commands.add_parser(name, help=summary)
    return parser


if __name__ == "__main__":
    sys.exit(main())
