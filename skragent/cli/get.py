"""`skragent get KEY`: fetch a key from the running agent, as a workload would."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import stat
import sys
import tempfile
import time
from pathlib import Path

from skragent.agent import exit_codes
from skragent.cli import deadline
from skragent.cli.ask import (
    API_SOCKET,
    TIMEOUT_SECONDS,
    add_command,
    add_socket_options,
    api_socket,
    hint_for_workload,
    pause_seconds,
    seconds,
    tell,
    timeout_for,
)
from skragent.client import SkragentClient, SkragentError
from skragent.client.exchange import MOST_WAIT_SECONDS

_EPILOG = """\
The key goes to stdout as it is, without a newline that is not part of it.

exit status:
  0    done
  69   it cannot be had so: in this format or version, say
  73   the output cannot be written
  75   not now: the agent has not got it yet, or does not run
  77   there is no such key, or it is not for you: the agent does not tell which
  78   the file of --config cannot be used
  130  Ctrl-C

examples:
  skragent get db --format pem --output /run/db/key.pem
  skragent get db --wait 60 | jq -r .kid"""


def add_parser(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    """Add the command to the main parser."""
    parser = add_command(
        commands, "get", "fetch a key from the running agent", epilog=_EPILOG
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
        type=seconds,
        default=0.0,
        help="wait so long for the agent to have it",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=_output_file,
        help="write to FILE instead of stdout (`-`): yours with mode 0600, replaced as"
        " a whole; links, devices and directories are refused",
    )
    add_socket_options(parser, API_SOCKET, "workloads")
    parser.set_defaults(run=run, deadline=_deadline)


def _deadline(arguments: argparse.Namespace) -> float:
    wait: float = arguments.wait
    return wait + deadline.MARGIN_SECONDS


def run(arguments: argparse.Namespace) -> int:
    """Fetch and write; gives the exit code."""
    output = None if arguments.output == "-" else arguments.output
    path = api_socket(arguments)
    try:
        if output is not None:
            _require_replaceable(Path(output))  # before the key is asked for
        key = _fetch(path, arguments)
        _write(key, output)
    except SkragentError as error:
        about = "" if error.status == 0 else f"key {arguments.key!r}"
        return tell(error, hint_for_workload(error, path), about=about)
    except BrokenPipeError:
        raise
    except OSError as error:
        where = "stdout" if output is None else output
        print(f"skragent: output: {where}: {error.strerror or error}", file=sys.stderr)
        return exit_codes.CANTCREAT
    return exit_codes.OK


def _output_file(text: str) -> str:
    if text in ("", ".", "..") or text.endswith("/"):
        raise argparse.ArgumentTypeError("must name a file")
    return text


def _fetch(path: str, arguments: argparse.Namespace) -> bytes:
    """Ask until there is an answer, or the time is over.

    The agent itself holds the request; what is repeated is asking one that is not
    there (yet), or that has too much to do.
    """
    ends_at = time.monotonic() + arguments.wait
    timeout = timeout_for(arguments.wait) if arguments.wait else TIMEOUT_SECONDS
    client = SkragentClient(path, timeout=timeout)
    while True:
        left = max(0.0, ends_at - time.monotonic())
        try:
            return client.get_bytes(
                arguments.key,
                arguments.format,
                arguments.version,
                wait=min(left, MOST_WAIT_SECONDS),
            )
        except SkragentError as error:
            left = ends_at - time.monotonic()
            if not error.is_temporary or left <= 0:
                raise
            pause = pause_seconds(error, left)
        time.sleep(pause)  # noqa: TID251 - this is no daemon, and --wait is for waiting


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


def _require_replaceable(path: Path) -> None:
    """Refuse to put a file where /dev/stdout, a pipe or somebody's link was.

    Raises:
        OSError: also where its directory is not there.
    """
    path.parent.stat()
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise OSError(errno.EEXIST, "it exists, and is no regular file to replace")
