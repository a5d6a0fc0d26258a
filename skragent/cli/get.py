"""`skragent get KEY`: fetch a key from the running agent, as a workload would."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from skragent.agent import exit_codes
from skragent.client import DEFAULT_SOCKET, SkragentClient, SkragentError

if TYPE_CHECKING:
    from collections.abc import Callable

# Between two questions while we wait. The agent answers from memory: this costs it
# little, and a workload that waits loses no more than this.
_POLL_SECONDS: Final = 0.05
_NOT_YET: Final = ("serve.not_ready", "client.unreachable")

_EPILOG = """\
The key goes to stdout as it is, without a newline that is not part of it.

exit status:
  0   done
  69  it cannot be had so: in this format or version, say
  73  the output file cannot be written
  75  not now: the agent has not got it yet, or does not run
  77  there is no such key, or it is not for you: the agent does not tell which

examples:
  skragent get db --format pem --output /run/db/key.pem
  skragent get db --wait 60 | jq -r .kid"""


def add_parser(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    """Add the command to the main parser."""
    parser = commands.add_parser(
        "get",
        help="fetch a key from the running agent",
        description="Fetch a key from the running agent.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("key", metavar="KEY", help="its name in the configuration")
    parser.add_argument(
        "--format",
        choices=("jwk", "pem", "der", "raw"),
        default="jwk",
        help="JWK (the default), PEM or DER (PKCS#8), or raw bytes of an oct key",
    )
    parser.add_argument("--version", metavar="V", help="exactly this version")
    parser.add_argument(
        "--wait",
        metavar="SECONDS",
        type=_seconds,
        default=0.0,
        help="wait so long for the agent to have it",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="write to FILE (mode 0600, replaced as a whole) instead of stdout",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--socket",
        metavar="PATH",
        default=DEFAULT_SOCKET,
        help=f"the agent's socket (default: {DEFAULT_SOCKET})",
    )
    where.add_argument(
        "--config",
        metavar="FILE",
        help="take the socket's path from the agent's configuration",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Fetch and write; gives the exit code."""
    client = SkragentClient(_socket_path(arguments))

    def fetch() -> bytes:
        return client.get_bytes(arguments.key, arguments.format, arguments.version)

    try:
        key = _wait_for(fetch, arguments.wait)
    except SkragentError as error:
        print(f"skragent: {error.code}: {error.detail}", file=sys.stderr)
        return _exit_code_of(error)
    try:
        _write(key, arguments.output)
    except BrokenPipeError:
        raise
    except OSError as error:
        print(
            f"skragent: output: {arguments.output or 'stdout'}:"
            f" {error.strerror or error}",
            file=sys.stderr,
        )
        return exit_codes.CANTCREAT
    return exit_codes.OK


def _socket_path(arguments: argparse.Namespace) -> str:
    path: str = arguments.socket
    if arguments.config is None:
        return path
    from skragent.cli.config_file import load_config  # noqa: PLC0415 - seldom needed

    return load_config(arguments.config).agent.api_socket


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86400:  # noqa: PLR2004 - a day; more is a mistake
        raise argparse.ArgumentTypeError("must be from 0 to 86400")
    return seconds


def _wait_for(fetch: Callable[[], bytes], seconds: float) -> bytes:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return fetch()
        except SkragentError as error:
            left = deadline - time.monotonic()
            if error.code not in _NOT_YET or left <= 0:
                raise
        time.sleep(min(_POLL_SECONDS, left))  # noqa: TID251 - this is no daemon, and --wait is for waiting


def _exit_code_of(error: SkragentError) -> int:
    if error.code == "serve.denied":
        return exit_codes.NOPERM
    if error.code in (*_NOT_YET, "client.timeout"):
        return exit_codes.TEMPFAIL
    return exit_codes.UNAVAILABLE


def _write(key: bytes, output: str | None) -> None:
    if output is None:
        if sys.stdout is None:  # started with it closed
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if sys.stdout.isatty():
            print("skragent: a private key follows on this terminal", file=sys.stderr)
        sys.stdout.buffer.write(key)
        sys.stdout.buffer.flush()
        return
    path = Path(output)
    # mkstemp makes it 0600; in the same directory, so that replacing is one step.
    fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
