"""`skragent refresh`, `skragent reload` and `skragent drop`: requests on admin.sock."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from skragent import exit_codes
from skragent.cli import deadline
from skragent.cli.agent_requests import (
    ADMIN_SOCKET,
    TIMEOUT_SECONDS,
    add_command,
    add_socket_options,
    admin_socket,
    hint_for_admin_request,
    print_client_error,
    seconds,
    status_changes,
)
from skragent.cli.standard_streams import print_error
from skragent.cli.status import describe_problem
from skragent.client.exchange import (
    Request,
    Response,
    SkragentError,
    exchange,
    key_target,
    keys_of,
)
from skragent.denials import is_denial

if TYPE_CHECKING:
    import argparse

_ACCEPTED: Final = 202
# Longer than the agent takes at most to read and apply a configuration.
_RELOAD_TIMEOUT_SECONDS: Final = 85.0

_EXIT_NOT_RUNNING = "75   the agent is not running or does not respond"
_EXIT_NO_ADMIN_SOCKET = "69   the socket is not an agent's admin.sock"

_REFRESH_EPILOG = f"""\
A held key stays held until the agent has its successor. Without --wait, the command
returns at once: AGE and LAST FAILURE of `skragent status` and the journal show the
result. With --wait, the command returns after one attempt for each key, and prints the
result: the version, or cause and remedy.

exit status:
  0    the agent accepted the request; with --wait: all keys were released
  {_EXIT_NO_ADMIN_SOCKET}; with --wait: a key was not released, and
       the cause needs a person
  {_EXIT_NOT_RUNNING}; with --wait: a key was not
       released, but the cause may be temporary, or --timeout has passed
  77   no such key, or you are not root; with --wait: a key was denied
  78   the file of --config cannot be used

examples:
  sudo skragent refresh
  sudo skragent refresh db --wait"""

_RELOAD_EPILOG = f"""\
This is what `systemctl reload skragent` does. The agent adds, removes and changes keys
and rules. It keeps the held keys whose vault and name did not change. The agent rejects
a file with any problem as a whole and keeps the previous configuration (CONFIG_REFUSED
in the journal). Changes of sockets and of the metrics port need a restart.

exit status:
  0    the file is in force; stderr names the settings that need a restart
  {_EXIT_NO_ADMIN_SOCKET}
  {_EXIT_NOT_RUNNING}
  77   you are not root
  78   the agent rejected the file, or the file of --config cannot be used"""

_DROP_EPILOG = f"""\
The agent wipes the key from memory at once and serves it to no caller. The agent does
not release it again until `skragent refresh KEY` names it or the agent starts again:
after a restart, a crash, an upgrade or a reboot. To remove the key permanently, remove
it from the configuration and reload, or disable it in the vault. A workload that
fetched the key before still has it: disable or rotate the key in the vault.

exit status:
  0    the key was dropped
  {_EXIT_NO_ADMIN_SOCKET}
  {_EXIT_NOT_RUNNING}
  77   no such key, or you are not root
  78   the file of --config cannot be used"""

# The exit code for several keys is that of the worst result.
_BY_URGENCY: Final = (
    exit_codes.NOPERM,
    exit_codes.UNAVAILABLE,
    exit_codes.TEMPFAIL,
    exit_codes.OK,
)


class _RefreshRequest(NamedTuple):
    """A request to refresh keys, and the agent's state before it."""

    attempts: dict[str, int]  # per key: attempts that had ended
    started_at: object


def add_refresh_parser(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    """Add `refresh` to the main parser."""
    parser = add_command(
        commands,
        "refresh",
        "release keys now: the named keys, or all except dropped ones",
        epilog=_REFRESH_EPILOG,
    )
    parser.add_argument("keys", metavar="KEY", nargs="*", help="only these keys")
    parser.add_argument(
        "--wait", action="store_true", help="wait for the result and print it"
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=seconds,
        default=120.0,
        help="with --wait: stop waiting after this time (default: 120)",
    )
    add_socket_options(parser, ADMIN_SOCKET, "administrators")
    parser.set_defaults(run=run_refresh, deadline=_refresh_deadline)


def _refresh_deadline(arguments: argparse.Namespace) -> float:
    timeout: float = arguments.timeout
    waits = timeout + deadline.MARGIN_SECONDS
    return waits if arguments.wait else deadline.USUAL_SECONDS


def add_reload_parser(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    """Add `reload` to the main parser."""
    parser = add_command(
        commands,
        "reload",
        "make the agent read its configuration again",
        epilog=_RELOAD_EPILOG,
    )
    add_socket_options(parser, ADMIN_SOCKET, "administrators")
    parser.set_defaults(
        run=run_reload, deadline=_RELOAD_TIMEOUT_SECONDS + deadline.MARGIN_SECONDS
    )


def add_drop_parser(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    """Add `drop` to the main parser."""
    parser = add_command(
        commands,
        "drop",
        "wipe a key now and do not release it again",
        epilog=_DROP_EPILOG,
    )
    parser.add_argument("key", metavar="KEY", help="name of the key")
    add_socket_options(parser, ADMIN_SOCKET, "administrators")
    parser.set_defaults(run=run_drop, deadline=deadline.USUAL_SECONDS)


def run_drop(arguments: argparse.Namespace) -> int:
    """Drop the key; return the exit code."""
    request = Request(key_target(arguments.key), method="DELETE")
    try:
        exchange(admin_socket(arguments), request, TIMEOUT_SECONDS)
    except SkragentError as error:
        return print_client_error(error, hint_for_admin_request(error))
    print(f"dropped: {arguments.key}")
    return exit_codes.OK


def run_reload(arguments: argparse.Namespace) -> int:
    """Reload the configuration and wait for the result; return the exit code."""
    request = Request("/v1/reload", method="POST")
    try:
        response = exchange(admin_socket(arguments), request, _RELOAD_TIMEOUT_SECONDS)
        is_listed = "needs_restart" in response.document()
        needs_restart = response.names("needs_restart") if is_listed else []
    except SkragentError as error:
        if not error.code.startswith("config."):
            return print_client_error(error, hint_for_admin_request(error))
        print_client_error(
            error,
            "The previous configuration stays in force."
            " Run `skragent check-config` to see all problems.",
        )
        return exit_codes.CONFIG
    print("reloaded")
    for setting in needs_restart:
        print(f"skragent: {setting}: in force after a restart", file=sys.stderr)
    return exit_codes.OK


def run_refresh(arguments: argparse.Namespace) -> int:
    """Refresh keys; return the exit code."""
    body = json.dumps({"keys": arguments.keys}).encode() if arguments.keys else b""
    request = Request("/v1/refresh", method="POST", body=body, expects=_ACCEPTED)
    path = admin_socket(arguments)
    ends_at = time.monotonic() + arguments.timeout
    try:
        response = exchange(path, request, TIMEOUT_SECONDS)
        names = response.names("refreshing")
        print(f"refreshing: {', '.join(names) or 'nothing'}", flush=True)
        if not arguments.wait:
            return exit_codes.OK
        requested = _RefreshRequest(
            _read_attempts(response, names), response.document().get("started_at")
        )
        deadline.doing(f"waiting for the result of {', '.join(names)}")
        return _wait(path, requested, ends_at, arguments.timeout)
    except SkragentError as error:
        return print_client_error(error, hint_for_admin_request(error))


def _read_attempts(response: Response, names: list[str]) -> dict[str, int]:
    """Read how many attempts had ended for each key before the request.

    Raises:
        SkragentError: client.garbage
    """
    attempts = response.document().get("attempts")
    if not isinstance(attempts, dict) or not all(
        isinstance(attempts.get(name), int) for name in names
    ):
        raise SkragentError(
            "client.garbage",
            0,
            "the response has no attempts: the agent is older than this command",
        )
    return {name: attempts[name] for name in names}


def _wait(path: str, requested: _RefreshRequest, ends_at: float, timeout: float) -> int:
    """Wait for one attempt for each key; return the exit code.

    Raises:
        SkragentError: the agent does not respond any more.
    """
    codes, pending = [exit_codes.OK], dict(requested.attempts)
    for document in status_changes(path, ends_at) if pending else ():
        keys = {key["name"]: key for key in keys_of(document)}
        if document.get("started_at") != requested.started_at:
            pending.update(dict.fromkeys(pending, 0))  # a new agent asks for all keys
        for name in _list_ended(keys, pending):
            del pending[name]
            codes.append(_print_result(name, keys.get(name)))
        if not pending:
            break
    if pending:
        print_error(
            "serve.not_ready",
            f"no result after {timeout:g} s: {', '.join(pending)}",
            "`skragent status` shows the result later.",
        )
        codes.append(exit_codes.TEMPFAIL)
    return next(code for code in _BY_URGENCY if code in codes)


def _list_ended(keys: dict[str, dict[str, Any]], pending: dict[str, int]) -> list[str]:
    """List the keys whose attempt has ended, or that get no attempt."""
    ended = []
    for name, count in pending.items():
        key = keys.get(name)
        attempts = key.get("attempts") if key else 0
        if not isinstance(attempts, int):
            raise SkragentError(
                "client.garbage", 0, "the socket does not belong to an agent"
            )
        if key is None or key["state"] == "dropped" or attempts > count:
            ended.append(name)
    return ended


def _print_result(name: str, key: dict[str, Any] | None) -> int:
    """Print the result of one key; return its exit code."""
    if key is None:
        print(f"{name}: the key was removed from the configuration", file=sys.stderr)
        return exit_codes.NOPERM
    problem = describe_problem(key)
    if not problem:
        print(f"{name}: released, version {key.get('version')}")
        return exit_codes.OK
    version = key.get("version")
    held = f"; version {version} stays held" if version else ""
    print(f"{name}: not released{held}", file=sys.stderr)
    for line in problem:
        print(f"  {line}", file=sys.stderr)
    if is_denial(key.get("last_failure") or ""):
        return exit_codes.NOPERM
    return exit_codes.UNAVAILABLE if key.get("needs_attention") else exit_codes.TEMPFAIL
