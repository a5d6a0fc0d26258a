"""`skragent status`: what the agent holds, and what keeps it from the rest."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from skragent.agent import exit_codes
from skragent.cli.ask import (
    ADMIN_SOCKET,
    MOST_WAIT_SECONDS,
    TIMEOUT_SECONDS,
    add_command,
    add_socket_options,
    admin_socket,
    api_socket,
    hint_for_root,
    is_forbidden,
    tell,
)
from skragent.client.exchange import Answer, Request, SkragentError, exchange

if TYPE_CHECKING:
    import argparse

_HEADINGS: Final = ("KEY", "STATE", "VERSION", "AGE", "NEXT", "LAST FAILURE")
_SHORT_VERSION: Final = 8
_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86400

_EPILOG = """\
Asks on admin.sock, which is root's; where that may not be, on api.sock, for the keys
that you may have. AGE is the time since the vault released what is held, NEXT the time
until the next release is tried.

exit status:
  0    it was printed, whatever it says
  75   the agent does not run, or does not answer
  77   you may ask on neither socket
  130  Ctrl-C ended --watch"""


def add_parser(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
) -> None:
    """Add the command to the main parser."""
    parser = add_command(
        commands,
        "status",
        "show what the agent holds, and what keeps it from the rest",
        epilog=_EPILOG,
    )
    parser.add_argument("--json", action="store_true", help="print the document itself")
    parser.add_argument("--watch", action="store_true", help="again at each change")
    add_socket_options(parser, ADMIN_SOCKET, "administrators")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Show it; gives the exit code."""
    try:
        path = _choose_socket(arguments)
        answer = exchange(path, Request("/v1/status"), TIMEOUT_SECONDS)
        while True:
            if answer.body:
                _show(json.loads(answer.body), as_json=arguments.json)
            if not arguments.watch:
                return exit_codes.OK
            answer = _next(path, answer)
    except SkragentError as error:
        return tell(error, hint_for_root(error))


def _choose_socket(arguments: argparse.Namespace) -> str:
    path = admin_socket(arguments)
    if arguments.socket is not None:
        return path
    try:
        exchange(path, Request("/healthz"), TIMEOUT_SECONDS)
    except SkragentError as error:
        if not (is_forbidden(error) or error.code == "client.unreachable"):
            raise
        other = api_socket(arguments)
        if is_forbidden(error):
            print(f"skragent: {error.detail}; asking on {other}", file=sys.stderr)
        return other
    return path


def _next(path: str, answer: Answer) -> Answer:
    """Wait for a change."""
    tag = answer.headers.get("etag", "").strip('"')
    request = Request("/v1/status", wait=MOST_WAIT_SECONDS, known=tag)
    sys.stdout.flush()
    return exchange(path, request, TIMEOUT_SECONDS)


def _show(status: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(status, indent=2))
        return
    now = time.time()  # noqa: TID251 - this is no daemon; ages are for people
    rows = [_HEADINGS, *(_row(key, now) for key in status["keys"])]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADINGS))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    print()
    for line in _about(status):
        print(line)


def _row(key: dict[str, Any], now: float) -> tuple[str, ...]:
    due_at = key.get("due_at") or key.get("retry_at")
    return (
        key["name"],
        key["state"],
        (key["version"] or "-")[:_SHORT_VERSION],
        "-" if key["released_at"] is None else _span(now - key["released_at"]),
        "-" if due_at is None else _span(due_at - now),
        key.get("last_failure") or "-",
    )


def _about(status: dict[str, Any]) -> list[str]:
    """Tell of the agent as a whole, as far as this socket does."""
    lines = [f"agent {status['version']}: {status['state']}"]
    if "attestation" in status:
        expires_at = status["attestation"]["token_expires_at"]
        until = "none yet" if expires_at is None else f"until {_moment(expires_at)}"
        lines += [
            f"up since {_moment(status['started_at'])}",
            f"attestation token: {until}",
            f"keys are in: {status['memory'] or 'no memory yet'}",
            f"rules on units: {status['unit_rules']}",
        ]
        lines += [
            f"{name}.sock: {counts['connections']} connections"
            for name, counts in status["sockets"].items()
            if name != "metrics"
        ]
    if "you" in status:
        you = status["you"]
        unit = f", unit {you['unit']}" if you["unit"] else ""
        within = f" ({you['user_unit']})" if you["user_unit"] else ""
        lines.append(f"you are uid {you['uid']}, gid {you['gid']}{unit}{within}")
    return lines


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _span(seconds: float) -> str:
    """Say a time span shortly, for people: two units at most."""
    whole = max(0, int(seconds))
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m{whole % _MINUTE:02}s"
    if whole < _DAY:
        return f"{whole // _HOUR}h{whole % _HOUR // _MINUTE:02}m"
    return f"{whole // _DAY}d{whole % _DAY // _HOUR:02}h"
