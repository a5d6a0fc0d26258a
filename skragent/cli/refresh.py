"""`skragent refresh [KEY...]`: have keys released now."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from skragent.agent import exit_codes
from skragent.cli import deadline
from skragent.cli.ask import (
    ADMIN_SOCKET,
    TIMEOUT_SECONDS,
    add_command,
    add_socket_options,
    admin_socket,
    hint_for_order,
    tell,
)
from skragent.client.exchange import Request, SkragentError, exchange

if TYPE_CHECKING:
    import argparse

_ACCEPTED: Final = 202

_EPILOG = """\
It returns at once. What is held stays held until its successor is here; AGE and LAST
FAILURE of `skragent status` tell what came of it, and so does the journal.

exit status:
  0    ordered
  69   what answers is no agent's admin.sock
  75   the agent does not run, or does not answer
  77   there is no such key, or you are not root
  78   the file of --config cannot be used

examples:
  sudo skragent refresh
  sudo skragent refresh db && sudo skragent status"""


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
    parser.set_defaults(run=run, deadline=deadline.USUAL_SECONDS)


def run(arguments: argparse.Namespace) -> int:
    """Order it; gives the exit code."""
    body = json.dumps({"keys": arguments.keys}).encode() if arguments.keys else b""
    request = Request("/v1/refresh", method="POST", body=body, expects=_ACCEPTED)
    try:
        answer = exchange(admin_socket(arguments), request, TIMEOUT_SECONDS)
        names = answer.names("refreshing")
    except SkragentError as error:
        return tell(error, hint_for_order(error))
    print(f"refreshing: {', '.join(names) or 'nothing'}")
    return exit_codes.OK
