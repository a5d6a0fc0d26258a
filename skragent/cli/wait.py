"""`skragent wait`: until keys are held; for scripts and units that need them."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Final

from skragent.agent import exit_codes
from skragent.cli import deadline
from skragent.cli.ask import (
    API_SOCKET,
    add_command,
    add_socket_options,
    admin_socket,
    api_socket,
    hint_for_root,
    hint_for_workload,
    seconds,
    tell,
)
from skragent.cli.status_changes import status_changes
from skragent.client.exchange import (
    SkragentError,
    keys_of,
)

if TYPE_CHECKING:
    import argparse

_HELD: Final = ("current", "stale")

_EPILOG = """\
Without --all, keys are those that you may have, and asked for on api.sock.

exit status:
  0    all of them are held
  69   what answers is no agent
  75   not within --timeout
  77   a key that was named is not for you or does not exist, or no key at all is for
       you, or you are not root (--all)
  78   the file of --config cannot be used
  130  Ctrl-C

examples:
  skragent wait db --timeout 60 && exec my-service
  ExecStart=/usr/bin/skragent wait --all --timeout 300   (in a unit)"""


def add_parser(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    """Add the command to the main parser."""
    parser = add_command(
        commands,
        "wait",
        "wait until keys are held: those that are named, or all of them",
        epilog=_EPILOG,
    )
    parser.add_argument("keys", metavar="KEY", nargs="*", help="only these")
    parser.add_argument(
        "--all",
        action="store_true",
        help="every key of the configuration, asked for on admin.sock (root)",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=seconds,
        default=90.0,
        help="give up after so long (default: 90)",
    )
    add_socket_options(parser, API_SOCKET, "workloads (with --all: administrators)")
    parser.set_defaults(run=run, deadline=_deadline)


def _deadline(arguments: argparse.Namespace) -> float:
    timeout: float = arguments.timeout
    return timeout + deadline.MARGIN_SECONDS


def run(arguments: argparse.Namespace) -> int:
    """Wait; gives the exit code."""
    path = admin_socket(arguments) if arguments.all else api_socket(arguments)
    ends_at = time.monotonic() + arguments.timeout
    missing = list(arguments.keys)
    try:
        for document in status_changes(path, ends_at):
            keys = keys_of(document)
            refusal = _refusal(keys, arguments.keys)
            if refusal:
                return _refuse(refusal)
            missing = _missing(keys, arguments.keys)
            if not missing:
                return exit_codes.OK
    except SkragentError as error:
        return _tell(error, path, is_for_root=arguments.all)
    return _give_up(missing, arguments.timeout)


def _tell(error: SkragentError, path: str, *, is_for_root: bool) -> int:
    hint = hint_for_root(error) if is_for_root else hint_for_workload(error, path)
    return tell(error, hint)


def _missing(keys: list[dict[str, Any]], wanted: list[str]) -> list[str]:
    return [
        f"{key['name']} ({key['state']})"
        for key in keys
        if key["state"] not in _HELD and (not wanted or key["name"] in wanted)
    ]


def _refusal(keys: list[dict[str, Any]], wanted: list[str]) -> str:
    """Say why it is no use to wait; nothing where it is."""
    unknown = set(wanted) - {key["name"] for key in keys}
    if unknown:
        return f"no such key for you: {', '.join(sorted(unknown))}"
    return "" if keys else "no key is for you"


def _refuse(why: str) -> int:
    print(f"skragent: serve.denied: {why}", file=sys.stderr)
    return exit_codes.NOPERM


def _give_up(missing: list[str], timeout: float) -> int:
    what = f"not held after {timeout:g} s: {', '.join(missing)}"
    print(f"skragent: serve.not_ready: {what}", file=sys.stderr)
    return exit_codes.TEMPFAIL
