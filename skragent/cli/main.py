"""`skragent`: parse the command line, run one command, and report every error.

Only the module of the command that runs is imported. The imports of the other commands
would make the agent start later and use more memory. Exit codes: skragent.exit_codes.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from typing import TYPE_CHECKING, Final, NamedTuple

from skragent import __version__
from skragent.cli import deadline
from skragent.cli.error_output import print_agent_error, print_error
from skragent.cli.streams import prepare_streams
from skragent.errors import AgentError
from skragent.exit_codes import (
    CANTCREAT,
    INTERRUPTED,
    OK,
    SOFTWARE,
    exit_code_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Command(NamedTuple):
    """A command: its summary, and the function that adds its parser."""

    summary: str
    module: str
    add_parser: str = "add_parser"


# In the order of `skragent --help`. Defaults of each command's parser are `run`, a
# function from the arguments to the exit code, and `deadline`.
_COMMANDS: Final = {
    "run": _Command("run the agent (systemd starts this command)", "run"),
    "get": _Command("fetch a key from the running agent", "get"),
    "status": _Command(
        "show the state of each key and the cause of problems", "status"
    ),
    "refresh": _Command(
        "release keys now: the named keys, or all except dropped ones",
        "admin_commands",
        "add_refresh_parser",
    ),
    "reload": _Command(
        "make the agent read its configuration again",
        "admin_commands",
        "add_reload_parser",
    ),
    "drop": _Command(
        "wipe a key now and do not release it again",
        "admin_commands",
        "add_drop_parser",
    ),
    "wait": _Command("wait until the named keys, or all keys, are held", "wait"),
    "check-config": _Command(
        "find every problem of a configuration file", "check_config"
    ),
    "report": _Command("decode and verify an attestation report", "report"),
    "emulator": _Command(
        "a small Azure and a confidential VM on this machine", "emulator"
    ),
    "demo": _Command(
        "show a key being released and served, on the embedded emulator", "demo"
    ),
}


_WRITE_ERRORS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    prepare_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _run(words)
        return _write_out(code)
    except SystemExit as ended:  # argparse printed its help or an error
        raise SystemExit(_write_out(int(ended.code or OK))) from None
    finally:
        deadline.stop()


def _run(words: list[str]) -> int:
    try:
        namespace = _build_parser(words).parse_args(words)
        deadline.start(namespace, _command_of(words))
        code: int = namespace.run(namespace)
    except AgentError as error:
        print_agent_error(error)
        return exit_code_of(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return OK  # the reader closed the pipe, as `head` does
    except Exception as error:  # noqa: BLE001 - users see no traceback
        if isinstance(error, OSError) and _is_write_error(error):
            return _cannot_write(error)
        _print_internal_error(error)
        return SOFTWARE
    return code


def _write_out(code: int) -> int:
    """Flush stdout; without this the interpreter exits with 120 if the flush fails."""
    if sys.stdout is None:  # stdout was closed at the start
        return code
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if code == OK and not isinstance(error, BrokenPipeError):
            return _cannot_write(error)
    return code


def _is_write_error(error: OSError) -> bool:
    """Return whether write(2) to stdout failed."""
    return error.errno in _WRITE_ERRORS and error.filename is None


def _cannot_write(error: OSError) -> int:
    print_error("output", f"stdout: {error.strerror}")
    return CANTCREAT


def _print_internal_error(error: Exception) -> None:
    """Print where a bug is. The exception's text is left out: it may hold a secret."""
    import traceback  # noqa: PLC0415 - it would delay every start

    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "?"
    message = f"{type(error).__name__} at {place}"
    print_error("internal", message, "This is a bug. Report it with this message.")


def _command_of(words: list[str]) -> str:
    return next((word for word in words if not word.startswith("-")), "")


def _build_parser(words: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="skragent",
        description="Secure Key Release agent for Azure confidential VMs.",
        epilog="`skragent COMMAND --help` describes a command.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    wanted = _command_of(words)
    for name, command in _COMMANDS.items():
        if name == wanted:
            module = importlib.import_module(f"skragent.cli.{command.module}")
            getattr(module, command.add_parser)(commands)
        else:
            commands.add_parser(name, help=command.summary)
    return parser


if __name__ == "__main__":
    sys.exit(main())
