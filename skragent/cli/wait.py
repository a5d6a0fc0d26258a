"""`skragent wait`: wait until keys are held, for scripts and units."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from skragent import exit_codes
from skragent.cli import deadline
from skragent.cli.agent_requests import (
    API_SOCKET,
    add_command,
    add_socket_options,
    admin_socket,
    api_socket,
    hint_for_admin,
    hint_for_workload,
    print_client_error,
    seconds,
    status_changes,
)
from skragent.cli.standard_streams import print_error
from skragent.client.exchange import (
    SkragentError,
    keys_of,
)

if TYPE_CHECKING:
    import argparse

_HELD: Final = ("current", "stale")

_EPILOG = """\
Without --all, the command uses api.sock and waits for keys that you may use.

exit status:
  0    all of these keys are held
  69   the socket does not belong to an agent
  75   not all keys were held within --timeout
  77   you may not use a named key or it does not exist; or you may use no key at all;
       or you are not root (--all)
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
        "wait until the named keys, or all keys, are held",
        epilog=_EPILOG,
    )
    parser.add_argument("keys", metavar="KEY", nargs="*", help="only these keys")
    parser.add_argument(
        "--all",
        action="store_true",
        help="wait for every configured key, by admin.sock (root only)",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=seconds,
        default=90.0,
        help="stop waiting after this time (default: 90)",
    )
    add_socket_options(parser, API_SOCKET, "workloads (with --all: administrators)")
    parser.set_defaults(run=run, deadline=_deadline)


def _deadline(arguments: argparse.Namespace) -> float:
    timeout: float = arguments.timeout
    return timeout + deadline.MARGIN_SECONDS


def run(arguments: argparse.Namespace) -> int:
    """Wait for keys; return the exit code."""
    path = admin_socket(arguments) if arguments.all else api_socket(arguments)
    ends_at = time.monotonic() + arguments.timeout
    missing = list(arguments.keys)
    try:
        for document in status_changes(path, ends_at):
            keys = keys_of(document)
            denial = _find_denial(keys, arguments.keys)
            if denial:
                print_error("serve.denied", denial)
                return exit_codes.NOPERM
            missing = _missing(keys, arguments.keys)
            if not missing:
                return exit_codes.OK
    except SkragentError as error:
        return _fail(error, path, is_for_root=arguments.all)
    return _give_up(missing, arguments.timeout)


def _fail(error: SkragentError, path: str, *, is_for_root: bool) -> int:
    hint = hint_for_admin(error) if is_for_root else hint_for_workload(error, path)
    return print_client_error(error, hint)


def _missing(keys: list[dict[str, Any]], wanted: list[str]) -> list[str]:
    return [
        f"{key['name']} ({key['state']})"
        for key in keys
        if key["state"] not in _HELD and (not wanted or key["name"] in wanted)
    ]


def _find_denial(keys: list[dict[str, Any]], wanted: list[str]) -> str:
    """Return why waiting is useless; an empty text if it is not."""
    unknown = set(wanted) - {key["name"] for key in keys}
    if unknown:
        return f"no such key, or access denied: {', '.join(sorted(unknown))}"
    return "" if keys else "you may use no key"


def _give_up(missing: list[str], timeout: float) -> int:
    print_error(
        "serve.not_ready", f"not held after {timeout:g} s: {', '.join(missing)}"
    )
    return exit_codes.TEMPFAIL
