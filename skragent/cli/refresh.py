"""`skragent refresh [KEY...]`: have keys released now."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from skragent.agent import exit_codes
from skragent.cli.ask import (
    ADMIN_SOCKET,
    TIMEOUT_SECONDS,
    add_command,
    add_socket_options,
    admin_socket,
    hint_for_root,
    tell,
)
from skragent.client.exchange import Request, SkragentError, exchange

if TYPE_CHECKING:
    import argparse

_EPILOG = """\
It returns at once; `skragent wait` waits for the outcome, and `skragent status` and the
journal tell it. What is held stays held until its successor is here.

exit status:
  0   ordered
  75  the agent does not run, or does not answer
  77  there is no such key, or you are not root

examples:
  sudo skragent refresh
  sudo skragent refresh db && skragent status"""


def add_parser(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    """Add the command to the main parser."""
    parser = add_command(
        commands,
        "refresh",
        "have keys released now: those that are named, or all but dropped ones",
        epilog=_EPILOG,
    )
    parser.add_argument("keys", metavar="KEY", nargs="*", help="only these")
    add_socket_options(parser, ADMIN_SOCKET, "administrators")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Order it; gives the exit code."""
    body = json.dumps({"keys": arguments.keys}).encode() if arguments.keys else b""
    request = Request("/v1/refresh", method="POST", body=body)
    try:
        answer = exchange(admin_socket(arguments), request, TIMEOUT_SECONDS)
    except SkragentError as error:
        return tell(error, hint_for_root(error))
    names = json.loads(answer.body)["refreshing"]
    print(f"refreshing: {', '.join(names) or 'nothing'}")
    return exit_codes.OK
