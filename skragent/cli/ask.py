"""What the commands that talk to the running agent have in common."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Final

from skragent.agent import exit_codes
from skragent.cli import deadline
from skragent.errors import ConfigError

if TYPE_CHECKING:
    from skragent.client import SkragentError
    from skragent.config import AgentConfig

ADMIN_SOCKET: Final = "/run/skragent/admin.sock"
API_SOCKET: Final = "/run/skragent/api.sock"

TIMEOUT_SECONDS: Final = 10.0
DAY_SECONDS: Final = 86400.0

NOT_YET: Final = ("serve.not_ready", "serve.busy", "serve.rate", "serve.connections")
_NOT_THERE: Final = ("client.unreachable", "client.timeout")
_NO_PERMISSION: Final = ("serve.denied", "client.forbidden")
# Between two attempts while the agent is not there, where it does not say itself.
_PAUSE_SECONDS: Final = 0.1


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    *,
    epilog: str,
) -> argparse.ArgumentParser:
    """Add a command; its epilog is printed as it is."""
    return commands.add_parser(
        name,
        help=summary,
        allow_abbrev=False,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_socket_options(
    parser: argparse.ArgumentParser, default: str, what: str
) -> None:
    """Add --socket and --config."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--socket",
        metavar="PATH",
        help=f"the agent's socket for {what} (default: {default})",
    )
    where.add_argument(
        "--config",
        metavar="FILE",
        help="take the socket's path from the agent's configuration",
    )


def agent_config(arguments: argparse.Namespace) -> AgentConfig:
    """Read [agent] of the configuration that was named, or its defaults."""
    if arguments.config is None:
        from skragent.config import AgentConfig  # noqa: PLC0415 - msgspec, seldom needed

        return AgentConfig()
    from skragent.cli.config_file import load_config  # noqa: PLC0415 - seldom needed

    deadline.doing(f"reading {arguments.config}")
    return load_config(arguments.config).agent


def api_socket(arguments: argparse.Namespace) -> str:
    """Choose the path of api.sock."""
    path: str = API_SOCKET
    if arguments.socket is not None:
        path = arguments.socket
    elif arguments.config is not None:
        path = agent_config(arguments).api_socket
    deadline.doing(f"asking the agent on {path}")
    return path


def admin_socket(arguments: argparse.Namespace) -> str:
    """Choose the path of admin.sock.

    Raises:
        ConfigError: the configuration that was named has none.
    """
    path: str = ADMIN_SOCKET
    if arguments.socket is not None:
        path = arguments.socket
    elif arguments.config is not None:
        path = agent_config(arguments).admin_socket
    if not path and arguments.socket is None:
        raise ConfigError(
            ["agent.admin_socket: it is empty, so there is no socket to ask on"],
            code="config.no_socket",
            hint="Set it, restart the agent, and ask again.",
        )
    deadline.doing(f"asking the agent on {path}")
    return path


def seconds(text: str) -> float:
    """Read an option's number of seconds: at most a day; more is a mistake."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= DAY_SECONDS:
        raise argparse.ArgumentTypeError("must be from 0 to 86400")
    return value


def tell(error: SkragentError, hint: str = "", *, about: str = "") -> int:
    """Say what went wrong, and to what; gives the exit code."""
    what = f"{about}: " if about else ""
    print(f"skragent: {error.code}: {what}{error.detail}", file=sys.stderr)
    if hint:
        print(f"  {hint}", file=sys.stderr)
    return exit_code_of(error)


def exit_code_of(error: SkragentError) -> int:
    """Choose the exit code for what the agent said."""
    if error.code in _NO_PERMISSION:
        return exit_codes.NOPERM
    if error.code in (*NOT_YET, *_NOT_THERE):
        return exit_codes.TEMPFAIL
    return exit_codes.UNAVAILABLE


def pause_seconds(error: SkragentError, left: float) -> float:
    """Choose how long to wait before asking again: as the agent says, if it does."""
    asked = _PAUSE_SECONDS if error.retry_after is None else error.retry_after
    return max(0.0, min(asked, left))


def timeout_for(left: float) -> float:
    """Choose the timeout of one attempt: an agent that hangs is not waited for long."""
    return min(TIMEOUT_SECONDS, max(left, 1.0))


def hint_for_workload(error: SkragentError, path: str) -> str:
    """Say what to do where a workload cannot have what it asks for."""
    if error.code == "client.forbidden":
        return "Only the socket's group (skragent) may connect: is your user in it?"
    if error.code == "serve.denied":
        return (
            f"`skragent status --socket {path}` tells what you may have, and who the"
            " agent thinks you are."
        )
    if error.formats:
        return f"It can be had as: {', '.join(error.formats)}."
    return _hint_for_anybody(error)


def hint_for_root(error: SkragentError) -> str:
    """Say what to do where only root may ask."""
    if error.code == "client.forbidden":
        return "Only root may ask there: try sudo."
    if error.code == "serve.method":
        return f"This is no admin.sock (usually {ADMIN_SOCKET}), where orders go."
    return _hint_for_anybody(error)


def hint_for_order(error: SkragentError) -> str:
    """Say what to do where an order was not answered, or refused."""
    if error.code == "client.timeout":
        return "It may be obeyed later all the same: `skragent status` tells."
    if error.code == "serve.denied":
        return "`skragent status` lists the keys."
    return hint_for_root(error)


def _hint_for_anybody(error: SkragentError) -> str:
    if error.code == "client.unreachable":
        return "`systemctl status skragent` tells whether the agent runs."
    if error.code == "client.timeout":
        return "`journalctl -u skragent` tells what it last did."
    return ""
