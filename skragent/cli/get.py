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

from skragent import exit_codes
from skragent.cli import deadline
from skragent.cli.agent_requests import (
    API_SOCKET,
    TIMEOUT_SECONDS,
    add_command,
    add_socket_options,
    api_socket,
    hint_for_workload,
    pause_seconds,
    print_client_error,
    seconds,
    timeout_for,
)
from skragent.cli.standard_streams import print_error
from skragent.client import SkragentClient, SkragentError
from skragent.client.exchange import MOST_WAIT_SECONDS

_EPILOG = """\
The command writes the key to stdout unchanged and adds no newline.

exit status:
  0    success
  69   unavailable, for example in this format or version
  73   the output could not be written
  75   temporary: the agent does not hold the key yet, or is not running
  77   no such key, or permission denied (the agent does not say which)
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
    parser.add_argument("key", metavar="KEY", help="name of the key")
    parser.add_argument(
        "--format",
        choices=("jwk", "pem", "der", "raw"),
        default="jwk",
        help="JWK (the default), PEM or DER (PKCS#8), or raw bytes of an oct key",
    )
    parser.add_argument("--version", metavar="V", help="this version of the key")
    parser.add_argument(
        "--wait",
        metavar="SECONDS",
        type=seconds,
        default=0.0,
        help="wait up to this time for the agent and the key",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=_output_file,
        help="write to FILE instead of stdout (`-`): a new file of yours with mode"
        " 0600 that replaces the old one in one step; links, devices and directories"
        " are rejected",
    )
    add_socket_options(parser, API_SOCKET, "workloads")
    parser.set_defaults(run=run, deadline=_deadline)


def _deadline(arguments: argparse.Namespace) -> float:
    wait: float = arguments.wait
    return wait + deadline.MARGIN_SECONDS


def run(arguments: argparse.Namespace) -> int:
    """Fetch the key and write it; return the exit code."""
    output = None if arguments.output == "-" else arguments.output
    path = api_socket(arguments)
    try:
        if output is not None:
            _require_replaceable(Path(output))  # before the request for the key
        key = _fetch(path, arguments)
        _write(key, output)
    except SkragentError as error:
        about = "" if error.status == 0 else f"key {arguments.key!r}"
        return print_client_error(error, hint_for_workload(error, path), about=about)
    except BrokenPipeError:
        raise
    except OSError as error:
        where = "stdout" if output is None else output
        print_error("output", f"{where}: {error.strerror or error}")
        return exit_codes.CANTCREAT
    return exit_codes.OK


def _output_file(text: str) -> str:
    if text in ("", ".", "..") or text.endswith("/"):
        raise argparse.ArgumentTypeError("must name a file")
    return text


def _fetch(path: str, arguments: argparse.Namespace) -> bytes:
    """Request the key until the agent responds or the time is over.

    The agent keeps a request pending until it has the key. This loop repeats requests
    while the agent is not running or too busy.
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
        time.sleep(pause)  # noqa: TID251 - a command, not the agent


def _write(key: bytes, output: str | None) -> None:
    if output is None:
        if sys.stdout is None:  # stdout was closed at the start
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if sys.stdout.isatty():
            print("skragent: a private key follows on this terminal", file=sys.stderr)
        sys.stdout.buffer.write(key)
        sys.stdout.buffer.flush()
        return
    path = Path(output)
    # mkstemp(3) creates it with mode 0600. rename(2) is atomic in one directory.
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
    """Check that the output path is free or a regular file, not a link or device.

    Raises:
        OSError: the path cannot be replaced, or its directory is missing.
    """
    path.parent.stat()
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise OSError(errno.EEXIST, "the path exists and is not a regular file")
