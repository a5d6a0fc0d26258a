"""`skragent status`: what the agent holds, and what keeps it from the rest."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from skragent.agent import exit_codes
from skragent.cli import deadline
from skragent.cli.ask import (
    ADMIN_SOCKET,
    TIMEOUT_SECONDS,
    add_command,
    add_socket_options,
    agent_config,
    hint_for_root,
    hint_for_workload,
    tell,
)
from skragent.client.exchange import (
    MOST_WAIT_SECONDS,
    Answer,
    Request,
    SkragentError,
    exchange,
)

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

_OF_ROOT: Final = ("NEXT", "LAST FAILURE")
_HEADINGS: Final = ("KEY", "STATE", "VERSION", "AGE", *_OF_ROOT)
# Where one socket cannot be asked on, the other may.
_ASK_ANOTHER: Final = ("client.forbidden", "client.unreachable")
_PAUSE_SECONDS: Final = 1.0
_SHORT_VERSION: Final = 8
_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86400

_EPILOG = """\
Asks on admin.sock, which is root's; where that may not be, on api.sock, for the keys
that you may have. AGE is the time since the vault released what is held, NEXT the time
until the next release is tried, LAST FAILURE why the last one failed (both are shown to
root only). Root also sees cause and remedy under each key that is not well. STATE is
waiting, current, stale, denied, expired or dropped: see skragent.service(8).
--watch goes on while the agent is restarted; with --json it prints a line each time.

exit status:
  0    it was printed, whatever it says
  69   what answers is no agent
  73   it cannot be written
  75   the agent does not run, or does not answer
  77   you may ask on neither socket
  78   the file of --config cannot be used
  130  Ctrl-C, which also ends --watch"""


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
    parser.set_defaults(run=run, deadline=_deadline)


def _deadline(arguments: argparse.Namespace) -> float | None:
    """Choose none for --watch, which runs until it is stopped."""
    return deadline.NONE if arguments.watch else deadline.USUAL_SECONDS


def run(arguments: argparse.Namespace) -> int:
    """Show it; gives the exit code."""
    sockets = _sockets(arguments)
    while True:
        path, hint = sockets.pop(0)
        try:
            return _run_on(path, arguments)
        except SkragentError as error:
            if not sockets or error.code not in _ASK_ANOTHER:
                return tell(error, hint(error))
            print(
                f"skragent: {error.detail}; asking on {sockets[0][0]}", file=sys.stderr
            )


def _run_on(path: str, arguments: argparse.Namespace) -> int:
    answer = exchange(path, Request("/v1/status"), TIMEOUT_SECONDS)
    _show(answer.document(), arguments)
    if arguments.watch:
        _watch(path, answer, arguments)
    return exit_codes.OK


def _sockets(
    arguments: argparse.Namespace,
) -> list[tuple[str, Callable[[SkragentError], str]]]:
    """List where to ask, one after the other, and what to say where that fails."""
    if arguments.socket is not None:
        return [(arguments.socket, hint_for_root)]
    config = agent_config(arguments)
    path = config.api_socket
    sockets = [(path, lambda error: hint_for_workload(error, path))]
    if config.admin_socket:
        sockets.insert(0, (config.admin_socket, hint_for_root))
    return sockets


def _watch(path: str, answer: Answer, arguments: argparse.Namespace) -> None:
    """Show it again at each change, until Ctrl-C.

    Raises:
        SkragentError: what answers is no agent any more, or not for us.
    """
    tag, is_there = _tag(answer), True
    while True:
        wait = MOST_WAIT_SECONDS if tag else 0.0
        request = Request("/v1/status", wait=wait, known=tag)
        try:
            answer = exchange(path, request, TIMEOUT_SECONDS)
        except SkragentError as error:
            if not error.is_temporary:
                raise
            if is_there:
                print(f"skragent: {error.detail}; asking again", file=sys.stderr)
            tag, is_there = "", False
            time.sleep(_PAUSE_SECONDS)  # noqa: TID251 - this is no daemon
            continue
        tag, is_there = _tag(answer), True
        if answer.body:
            _show(answer.document(), arguments)


def _tag(answer: Answer) -> str:
    return answer.headers.get("etag", "").strip('"')


def _show(status: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Print a status.

    Raises:
        SkragentError: client.garbage: it is none.
    """
    now = time.time()  # noqa: TID251 - this is no daemon; ages are for people
    try:
        lines = [*_table(status, now), "", *_about(status)]
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise SkragentError(
            "client.garbage", 0, "what answers is no agent, or another version's"
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
        rows = [row[: -len(_OF_ROOT)] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    heading, *lines = (
        "  ".join(c.ljust(width) for c, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
    table = [heading]
    for line, key in zip(lines, status["keys"], strict=True):
        table += [line, *(f"  {text}" for text in trouble_of(key))]
    return table


def trouble_of(key: dict[str, Any]) -> list[str]:
    """Say why a key is not well, and what to do; nothing if it is.

    An agent of an older version tells the code alone.
    """
    name, code, state = key["name"], key.get("last_failure"), key["state"]
    if code:
        cause = key.get("last_failure_message") or "see the journal"
        remedy = (
            key.get("last_failure_hint") or f"Look {code} up in skragent-errors(7)."
        )
        return [f"cause: {code}: {cause}", f"remedy: {remedy}"]
    if state == "dropped":
        return [
            "cause: an administrator dropped it",
            f"remedy: `skragent refresh {name}` has it released again.",
        ]
    return []


def _row(key: dict[str, Any], now: float) -> tuple[str, ...]:
    # What failed as a whole is due still; when it is tried again is another time.
    times = [at for at in (key.get("due_at"), key.get("retry_at")) if at is not None]
    left = max(times, default=now) - now
    return (
        key["name"],
        key["state"],
        (key["version"] or "-")[:_SHORT_VERSION],
        "-" if key["released_at"] is None else _span(now - key["released_at"]),
        "-" if not times else (_span(left) if left > 0 else "now"),
        key.get("last_failure") or "-",
    )


def _about(status: dict[str, Any]) -> list[str]:
    """Tell of the agent as a whole, as far as this socket does."""
    lines = [f"agent {status['version']}: {status['state']}"]
    if "attestation" in status:
        attestation = status["attestation"]
        lines += [
            f"up since {_moment(status['started_at'])}",
            f"attestation token: {_until(attestation['token_expires_at'], 'none yet')}",
            # A job tells of it at its end, and may have attested long before.
            "AK certificate: "
            + _until(attestation["ak_certificate_expires_at"], "not known yet"),
            f"keys are in: {status['memory'] or 'no memory yet'}",
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
    """Name the keys that a person must look after."""
    attention = [
        f"key {key['name']} needs attention: {key['last_failure']}, see"
        " skragent-errors(7)"
        for key in keys
        if key["needs_attention"]
    ]
    nonces = [
        f"key {key['name']}: its signed release does not repeat our nonce"
        for key in keys
        if key["repeats_nonce"] is False
    ]
    return attention + nonces


def _until(seconds: float | None, if_none: str) -> str:
    return if_none if seconds is None else f"until {_moment(seconds)}"


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
