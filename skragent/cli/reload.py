"""`skragent reload`: have the agent read its configuration again."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from skragent.agent import exit_codes
from skragent.cli import deadline
from skragent.cli.ask import (
    ADMIN_SOCKET,
    add_command,
    add_socket_options,
    admin_socket,
    hint_for_order,
    tell,
)
from skragent.client.exchange import Request, SkragentError, exchange

if TYPE_CHECKING:
    import argparse

# The agent gives up before.
_TIMEOUT_SECONDS: Final = 85.0

_EPILOG = """\
It is what `systemctl reload skragent` does. Keys and rules are added, removed and
changed; what stays is not dropped. A file with any problem is refused as a whole, and
the one before stays in force (CONFIG_REFUSED in the journal). Sockets and the metrics
port take a restart.

exit status:
  0    the file is in force; stderr tells of settings that take a restart
  69   what answers is no agent's admin.sock
  75   the agent does not run, or does not answer
  77   you are not root
  78   the file was refused, or that of --config cannot be used"""


def add_parser(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    """Add the command to the main parser."""
    parser = add_command(
        commands,
        "reload",
        "have the agent read its configuration again",
        epilog=_EPILOG,
    )
    add_socket_options(parser, ADMIN_SOCKET, "administrators")
    parser.set_defaults(run=run, deadline=_TIMEOUT_SECONDS + deadline.MARGIN_SECONDS)


def run(arguments: argparse.Namespace) -> int:
    """Order it, and wait for what comes of it; gives the exit code."""
    request = Request("/v1/reload", method="POST")
    try:
        answer = exchange(admin_socket(arguments), request, _TIMEOUT_SECONDS)
        is_told = "needs_restart" in answer.document()
        needs_restart = answer.names("needs_restart") if is_told else []
    except SkragentError as error:
        if not error.code.startswith("config."):
            return tell(error, hint_for_order(error))
        tell(
            error,
            "The configuration before stays in force. See `skragent check-config`.",
        )
        return exit_codes.CONFIG
    print("reloaded")
    for setting in needs_restart:
        print(f"skragent: {setting}: in force after a restart", file=sys.stderr)
    return exit_codes.OK
