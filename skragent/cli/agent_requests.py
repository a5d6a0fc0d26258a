"""Requests to the running agent: options, sockets, timeouts, exit codes and hints."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any, Final

from skragent import exit_codes
from skragent.cli import deadline
from skragent.cli.standard_streams import print_error
from skragent.client.exchange import (
    MOST_WAIT_SECONDS,
    Request,
    SkragentError,
    exchange,
)
from skragent.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skragent.config import AgentConfig

ADMIN_SOCKET: Final = "/run/skragent/admin.sock"
API_SOCKET: Final = "/run/skragent/api.sock"

TIMEOUT_SECONDS: Final = 10.0
DAY_SECONDS: Final = 86400.0

_TEMPORARY: Final = ("serve.not_ready", "serve.busy", "serve.rate", "serve.connections")
_NO_ANSWER: Final = ("client.unreachable", "client.timeout")
_NO_PERMISSION: Final = ("serve.denied", "client.forbidden")
# Between two attempts, if the agent does not say when to try again.
_PAUSE_SECONDS: Final = 0.1


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    *,
    epilog: str,
) -> argparse.ArgumentParser:
    """Add a command; argparse prints its epilog unchanged."""
    return commands.add_parser(
        name,
        help=summary,
        allow_abbrev=False,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_socket_options(
    parser: argparse.ArgumentParser, default: str, users: str
) -> None:
    """Add --socket and --config."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--socket",
        metavar="PATH",
        help=f"the agent's socket for {users} (default: {default})",
    )
    group.add_argument(
        "--config",
        metavar="FILE",
        help="take the socket's path from the agent's configuration",
    )


def agent_config(arguments: argparse.Namespace) -> AgentConfig:
    """Read [agent] of the file of --config; return the defaults without a file."""
    if arguments.config is None:
        from skragent.config import AgentConfig  # noqa: PLC0415 - msgspec, seldom needed

        return AgentConfig()
    from skragent.cli.config_file import load_config  # noqa: PLC0415 - seldom needed

    deadline.doing(f"reading {arguments.config}")
    return load_config(arguments.config).agent


def api_socket(arguments: argparse.Namespace) -> str:
    """Return the path of api.sock."""
    path: str = API_SOCKET
    if arguments.socket is not None:
        path = arguments.socket
    elif arguments.config is not None:
        path = agent_config(arguments).api_socket
    deadline.doing(f"asking the agent on {path}")
    return path


def admin_socket(arguments: argparse.Namespace) -> str:
    """Return the path of admin.sock.

    Raises:
        ConfigError: config.no_socket: the file of --config sets no admin socket.
    """
    path: str = ADMIN_SOCKET
    if arguments.socket is not None:
        path = arguments.socket
    elif arguments.config is not None:
        path = agent_config(arguments).admin_socket
    if not path and arguments.socket is None:
        raise ConfigError(
            ["agent.admin_socket: empty: the agent has no admin socket"],
            code="config.no_socket",
            hint="Set agent.admin_socket, restart the agent, and repeat the command.",
        )
    deadline.doing(f"asking the agent on {path}")
    return path


def seconds(text: str) -> float:
    """Parse an option's number of seconds, at most one day."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= DAY_SECONDS:
        raise argparse.ArgumentTypeError("must be from 0 to 86400")
    return value


def print_client_error(error: SkragentError, hint: str = "", *, about: str = "") -> int:
    """Print an error of a request to the agent; return the exit code.

    Args:
        error: the error.
        hint: what the user can do.
        about: the object that the request was about.
    """
    detail = f"{about}: {error.detail}" if about else error.detail
    print_error(error.code, detail, hint)
    return exit_code_of(error)


def exit_code_of(error: SkragentError) -> int:
    """Return the exit code for an error of a request to the agent."""
    if error.code in _NO_PERMISSION:
        return exit_codes.NOPERM
    if error.code in (*_TEMPORARY, *_NO_ANSWER):
        return exit_codes.TEMPFAIL
    return exit_codes.UNAVAILABLE


def pause_seconds(error: SkragentError, left: float) -> float:
    """Return the pause before the next attempt: the Retry-After, if there is one."""
    asked = _PAUSE_SECONDS if error.retry_after is None else error.retry_after
    return max(0.0, min(asked, left))


def timeout_for(left: float) -> float:
    """Return the timeout of one attempt: at most TIMEOUT_SECONDS, at least 1 s."""
    return min(TIMEOUT_SECONDS, max(left, 1.0))


def status_changes(path: str, ends_at: float) -> Iterator[dict[str, Any]]:
    """Yield the status at once and after each change, until the time is over.

    A request that fails with a temporary error is repeated.

    Args:
        path: path of the socket.
        ends_at: end of the time, on time.monotonic().

    Raises:
        SkragentError: the error is permanent, or the time is over.
    """
    tag = ""
    while True:
        left = max(0.0, ends_at - time.monotonic())
        request = Request(
            "/v1/status", wait=min(left, MOST_WAIT_SECONDS) if tag else 0.0, known=tag
        )
        try:
            response = exchange(path, request, timeout_for(left))
        except SkragentError as error:
            left = ends_at - time.monotonic()
            if not error.is_temporary or left <= 0:
                raise
            time.sleep(pause_seconds(error, left))  # noqa: TID251 - a command, not the agent
            continue
        if response.body:
            tag = response.headers.get("etag", "").strip('"')
            yield response.document()
        if time.monotonic() >= ends_at:
            return


def hint_for_workload(error: SkragentError, path: str) -> str:
    """Return what a workload can do about an error."""
    if error.code == "client.forbidden":
        return (
            "Only members of the socket's group (skragent) may connect."
            " Add your user to the group."
        )
    if error.code == "serve.denied":
        return (
            f"`skragent status --socket {path}` lists the keys that you may use and"
            " shows your identity as the agent sees it."
        )
    if error.formats:
        return f"The key is available as: {', '.join(error.formats)}."
    return _hint_for_any_caller(error)


def hint_for_admin(error: SkragentError) -> str:
    """Return what an administrator can do about an error of admin.sock."""
    if error.code == "client.forbidden":
        return "Only root may connect to this socket: use sudo."
    if error.code == "serve.method":
        return f"This is not admin.sock (usually {ADMIN_SOCKET})."
    return _hint_for_any_caller(error)


def hint_for_admin_request(error: SkragentError) -> str:
    """Return what an administrator can do about a failed refresh, reload or drop."""
    if error.code == "client.timeout":
        return "The agent may still carry it out: see `skragent status`."
    if error.code == "serve.denied":
        return "`skragent status` lists the keys."
    return hint_for_admin(error)


def _hint_for_any_caller(error: SkragentError) -> str:
    if error.code == "client.unreachable":
        return "`systemctl status skragent` shows whether the agent is running."
    if error.code == "client.timeout":
        return "`journalctl -u skragent` shows the agent's last messages."
    return ""
