"""`skragent status`: the state of each key, and the causes of problems."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from skragent import exit_codes
from skragent.cli import deadline
from skragent.cli.agent_requests import (
    ADMIN_SOCKET,
    TIMEOUT_SECONDS,
    add_command,
    add_socket_options,
    agent_config,
    hint_for_admin,
    hint_for_workload,
    print_client_error,
)
from skragent.client.exchange import (
    MOST_WAIT_SECONDS,
    Request,
    Response,
    SkragentError,
    exchange,
)
from skragent.error_catalog import remedy_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

_ADMIN_COLUMNS: Final = ("NEXT", "LAST FAILURE")
_HEADINGS: Final = ("KEY", "STATE", "VERSION", "AGE", *_ADMIN_COLUMNS)
# After these errors the command tries the other socket.
_TRY_NEXT_SOCKET: Final = ("client.forbidden", "client.unreachable")
_PAUSE_SECONDS: Final = 1.0
_SHORT_VERSION: Final = 8
_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86400

_EPILOG = """\
Root gets the status of all keys from admin.sock. Other users get the keys that they may
use from api.sock. STATE is waiting, current, stale, denied, expired or dropped: see
skragent.service(8). AGE is the time since the vault released the held key. Root also
sees NEXT, the time until the next release attempt, LAST FAILURE, the error code of the
last attempt, and cause and remedy under each key that has a problem.
--watch continues while the agent restarts. With --json it prints one line per change.

exit status:
  0    the status was printed, independent of its content
  69   the socket does not belong to an agent
  73   the output could not be written
  75   the agent is not running or does not respond
  77   you may connect to neither socket
  78   the file of --config cannot be used
  130  Ctrl-C, which also ends --watch"""


def add_parser(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    """Add the command to the main parser."""
    parser = add_command(
        commands,
        "status",
        "show the state of each key and the cause of problems",
        epilog=_EPILOG,
    )
    parser.add_argument("--json", action="store_true", help="print the JSON document")
    parser.add_argument(
        "--watch", action="store_true", help="print the status again at each change"
    )
    add_socket_options(parser, ADMIN_SOCKET, "administrators")
    parser.set_defaults(run=run, deadline=_deadline)


def _deadline(arguments: argparse.Namespace) -> float | None:
    """Return no deadline for --watch, which runs until the user stops it."""
    return deadline.NONE if arguments.watch else deadline.USUAL_SECONDS


def run(arguments: argparse.Namespace) -> int:
    """Print the status; return the exit code."""
    sockets = _sockets(arguments)
    while True:
        path, hint = sockets.pop(0)
        try:
            return _run_on(path, arguments)
        except SkragentError as error:
            if not sockets or error.code not in _TRY_NEXT_SOCKET:
                return print_client_error(error, hint(error))
            print(f"skragent: {error.detail}; trying {sockets[0][0]}", file=sys.stderr)


def _run_on(path: str, arguments: argparse.Namespace) -> int:
    response = exchange(path, Request("/v1/status"), TIMEOUT_SECONDS)
    _show(response.document(), arguments)
    if arguments.watch:
        _watch(path, response, arguments)
    return exit_codes.OK


def _sockets(
    arguments: argparse.Namespace,
) -> list[tuple[str, Callable[[SkragentError], str]]]:
    """List the sockets to try in order, each with its function for hints."""
    if arguments.socket is not None:
        return [(arguments.socket, hint_for_admin)]
    config = agent_config(arguments)
    path = config.api_socket
    sockets = [(path, lambda error: hint_for_workload(error, path))]
    if config.admin_socket:
        sockets.insert(0, (config.admin_socket, hint_for_admin))
    return sockets


def _watch(path: str, response: Response, arguments: argparse.Namespace) -> None:
    """Print the status at each change, until Ctrl-C.

    Raises:
        SkragentError: a permanent error.
    """
    tag, is_reachable = _tag(response), True
    while True:
        wait = MOST_WAIT_SECONDS if tag else 0.0
        request = Request("/v1/status", wait=wait, known=tag)
        try:
            response = exchange(path, request, TIMEOUT_SECONDS)
        except SkragentError as error:
            if not error.is_temporary:
                raise
            if is_reachable:
                print(f"skragent: {error.detail}; trying again", file=sys.stderr)
            tag, is_reachable = "", False
            time.sleep(_PAUSE_SECONDS)  # noqa: TID251 - a command, not the agent
            continue
        tag, is_reachable = _tag(response), True
        if response.body:
            _show(response.document(), arguments)


def _tag(response: Response) -> str:
    return response.headers.get("etag", "").strip('"')


def _show(status: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Print a status.

    Raises:
        SkragentError: client.garbage: the document is not a status.
    """
    now = time.time()  # noqa: TID251 - a command, not the agent
    try:
        lines = [*_table(status, now), "", *_about(status)]
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise SkragentError(
            "client.garbage",
            0,
            "the response is not a status: another program or another version",
        ) from error
    if arguments.json:
        print(json.dumps(status, indent=None if arguments.watch else 2), flush=True)
        return
    if arguments.watch:
        print(f"--- {_moment(now)}")
    print("\n".join(lines), flush=True)


def _table(status: dict[str, Any], now: float) -> list[str]:
    rows = [_HEADINGS, *(_row(key, now) for key in status["keys"])]
    if "attestation" not in status:  # api.sock's
        rows = [row[: -len(_ADMIN_COLUMNS)] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    heading, *lines = (
        "  ".join(c.ljust(width) for c, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
    table = [heading]
    for line, key in zip(lines, status["keys"], strict=True):
        table += [line, *(f"  {text}" for text in describe_problem(key))]
    return table


def describe_problem(key: dict[str, Any]) -> list[str]:
    """Return cause and remedy of a key's problem; an empty list without a problem.

    An agent of an older version sends the code alone.
    """
    name, code, state = key["name"], key.get("last_failure"), key["state"]
    if code:
        cause = key.get("last_failure_message") or "see the journal"
        remedy = key.get("last_failure_hint") or remedy_of(code)
        lines = [f"cause: {code}: {cause}", f"remedy: {remedy}"]
        if (wipe_at := key.get("wipe_at")) is not None:
            lines.append(
                f"warning: if the denial is repeated at {_moment(wipe_at)} or later,"
                " the agent wipes the held key"
            )
        return lines
    if state == "dropped":
        return [
            "cause: an administrator dropped the key",
            f"remedy: run `skragent refresh {name}` to release it again.",
        ]
    return []


def _row(key: dict[str, Any], now: float) -> tuple[str, ...]:
    return (
        key["name"],
        key["state"],
        (key["version"] or "-")[:_SHORT_VERSION],
        "-" if key["released_at"] is None else _span(now - key["released_at"]),
        _until_due(key.get("due_at"), now),
        key.get("last_failure") or "-",
    )


def _until_due(due_at: float | None, now: float) -> str:
    """Return the time until the next attempt."""
    if due_at is None:
        return "-"
    return _span(due_at - now) if due_at > now else "now"


def _about(status: dict[str, Any]) -> list[str]:
    """Describe the agent as a whole, as far as this socket shows it."""
    lines = [f"agent {status['version']}: {status['state']}"]
    if "attestation" in status:
        attestation = status["attestation"]
        lines += [
            f"up since {_moment(status['started_at'])}",
            "attestation token: " + _until(attestation["token_expires_at"], "none yet"),
            # A job reports it at its end, and may have attested long before.
            "AK certificate: "
            + _until(attestation["ak_certificate_expires_at"], "not known yet"),
            f"key memory: {status['memory'] or 'none yet'}",
            f"rules on units: {status['unit_rules']}",
        ]
        lines += [
            f"{name}.sock: {counts['connections']} connections"
            for name, counts in status["sockets"].items()
            if name != "metrics"
        ]
        lines += _warnings(status["keys"])
    if "you" in status:
        you = status["you"]
        unit = f", unit {you['unit']}" if you["unit"] else ""
        within = f" ({you['user_unit']})" if you["user_unit"] else ""
        groups = "".join(f", {gid}" for gid in you["groups"])
        lines.append(
            f"you are uid {you['uid']}, groups {you['gid']}{groups}{unit}{within}"
        )
    return lines


def _warnings(keys: list[dict[str, Any]]) -> list[str]:
    """Name the keys whose problem needs a person."""
    attention = [
        f"key {key['name']} needs attention: {key['last_failure']}, see"
        " skragent-errors(7)"
        for key in keys
        if key["needs_attention"]
    ]
    nonces = [
        f"key {key['name']}: the signed release does not repeat the request's nonce"
        for key in keys
        if key["repeats_nonce"] is False
    ]
    return attention + nonces


def _until(seconds: float | None, if_none: str) -> str:
    return if_none if seconds is None else f"until {_moment(seconds)}"


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _span(seconds: float) -> str:
    """Format a time span with at most two units."""
    whole = max(0, int(seconds))
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m{whole % _MINUTE:02}s"
    if whole < _DAY:
        return f"{whole // _HOUR}h{whole % _HOUR // _MINUTE:02}m"
    return f"{whole // _DAY}d{whole % _DAY // _HOUR:02}h"
