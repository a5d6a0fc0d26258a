"""`skragent drop KEY`: wipe a key now, and keep it away."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
from skragent.client.exchange import Request, SkragentError, exchange, key_target

if TYPE_CHECKING:
    import argparse

_EPILOG = """\
The key is wiped from memory at once and served to nobody. It is not released again
until `skragent refresh KEY` names it, or the agent starts again: after a restart, a
crash, an upgrade or a reboot. To keep it away for good, remove it from the
configuration and reload, or disable it in the vault. A workload that fetched it before
still has it: to take it away, disable or rotate it in the vault.

exit status:
  0    dropped
  69   what answers is no agent's admin.sock
  75   the agent does not run, or does not answer
  77   there is no such key, or you are not root
  78   the file of --config cannot be used"""


def add_parser(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    """Add the command to the main parser."""
    parser = add_command(
        commands, "drop", "wipe a key now, and keep it away", epilog=_EPILOG
    )
    parser.add_argument("key", metavar="KEY", help="its name in the configuration")
    add_socket_options(parser, ADMIN_SOCKET, "administrators")
    parser.set_defaults(run=run, deadline=deadline.USUAL_SECONDS)


def run(arguments: argparse.Namespace) -> int:
    """Order it; gives the exit code."""
    request = Request(key_target(arguments.key), method="DELETE")
    try:
        exchange(admin_socket(arguments), request, TIMEOUT_SECONDS)
    except SkragentError as error:
        return tell(error, hint_for_order(error))
    print(f"dropped: {arguments.key}")
    return exit_codes.OK
