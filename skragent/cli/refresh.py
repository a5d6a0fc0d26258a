"""`skragent refresh [KEY...]`: have keys released now."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from skragent.agent import exit_codes
from skragent.cli import deadline
from skragent.cli.ask import (
    ADMIN_SOCKET,
    TIMEOUT_SECONDS,
    add_command,
    add_socket_options,
    admin_socket,
    hint_for_order,
    seconds,
    tell,
)
from skragent.cli.status import trouble_of
from skragent.cli.status_changes import status_changes
from skragent.client.exchange import (
    Answer,
    Request,
    SkragentError,
    exchange,
    keys_of,
)
from skragent.denials import is_denial

if TYPE_CHECKING:
    import argparse

_ACCEPTED: Final = 202


class _Order(NamedTuple):
    """An order to refresh keys, and the state of the agent before it."""

    attempts: dict[str, int]  # of each key, that had ended before
    started_at: object


_EPILOG = """\
It returns at once. What is held stays held until its successor is here; AGE and LAST
FAILURE of `skragent status` tell what came of it, and so does the journal.
With --wait it returns when each key was asked for once, and tells what came of it:
the version, or cause and remedy.

exit status:
  0    ordered; with --wait: released
  69   what answers is no agent's admin.sock; with --wait: a key was not released, and a
       person must act
  75   the agent does not run, or does not answer; with --wait: a key was not released,
       for a reason that may pass by itself, or not within --timeout
  77   there is no such key, or you are not root; with --wait: a key was denied
  78   the file of --config cannot be used

examples:
  sudo skragent refresh
  sudo skragent refresh db --wait"""


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
    parser.add_argument(
        "--wait", action="store_true", help="wait for the result, and tell it"
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=seconds,
        default=120.0,
        help="with --wait: give up after so long (default: 120)",
    )
    add_socket_options(parser, ADMIN_SOCKET, "administrators")
    parser.set_defaults(run=run, deadline=_deadline)


def _deadline(arguments: argparse.Namespace) -> float:
    timeout: float = arguments.timeout
    waits = timeout + deadline.MARGIN_SECONDS
    return waits if arguments.wait else deadline.USUAL_SECONDS


def run(arguments: argparse.Namespace) -> int:
    """Order it; gives the exit code."""
    body = json.dumps({"keys": arguments.keys}).encode() if arguments.keys else b""
    request = Request("/v1/refresh", method="POST", body=body, expects=_ACCEPTED)
    path = admin_socket(arguments)
    ends_at = time.monotonic() + arguments.timeout
    try:
        answer = exchange(path, request, TIMEOUT_SECONDS)
        names = answer.names("refreshing")
        print(f"refreshing: {', '.join(names) or 'nothing'}", flush=True)
        if not arguments.wait:
            return exit_codes.OK
        order = _Order(_attempts(answer, names), answer.document().get("started_at"))
        deadline.doing(f"waiting for the result of {', '.join(names)}")
        return _wait(path, order, ends_at, arguments.timeout)
    except SkragentError as error:
        return tell(error, hint_for_order(error))


def _attempts(answer: Answer, names: list[str]) -> dict[str, int]:
    """Read how many attempts had ended for each key before the order.

    Raises:
        SkragentError: client.garbage
    """
    attempts = answer.document().get("attempts")
    if not isinstance(attempts, dict) or not all(
        isinstance(attempts.get(name), int) for name in names
    ):
        raise SkragentError(
            "client.garbage", 0, "this agent does not tell results: it is older"
        )
    return {name: attempts[name] for name in names}


def _wait(path: str, order: _Order, ends_at: float, timeout: float) -> int:
    """Wait until each key was asked for; gives the exit code.

    Raises:
        SkragentError: the agent cannot be asked any more.
    """
    codes, before = [exit_codes.OK], dict(order.attempts)
    for document in status_changes(path, ends_at) if before else ():
        keys = {key["name"]: key for key in keys_of(document)}
        if document.get("started_at") != order.started_at:
            before.update(dict.fromkeys(before, 0))  # it asks for every key
        for name in _ended(keys, before):
            del before[name]
            codes.append(_tell_result(name, keys.get(name)))
        if not before:
            break
    if before:
        print(
            f"skragent: serve.not_ready: no result after {timeout:g} s:"
            f" {', '.join(before)}\n  `skragent status` tells it later.",
            file=sys.stderr,
        )
        codes.append(exit_codes.TEMPFAIL)
    return next(code for code in _BY_URGENCY if code in codes)


# The exit code of several keys is that of the worst result.
_BY_URGENCY: Final = (
    exit_codes.NOPERM,
    exit_codes.UNAVAILABLE,
    exit_codes.TEMPFAIL,
    exit_codes.OK,
)


def _ended(keys: dict[str, dict[str, Any]], before: dict[str, int]) -> list[str]:
    """List the keys whose result is there, or that have none to wait for."""
    ended = []
    for name, count in before.items():
        key = keys.get(name)
        attempts = key.get("attempts") if key else 0
        if not isinstance(attempts, int):
            raise SkragentError("client.garbage", 0, "what answers is no agent")
        if key is None or key["state"] == "dropped" or attempts > count:
            ended.append(name)
    return ended


def _tell_result(name: str, key: dict[str, Any] | None) -> int:
    """Print the result of one key; gives its exit code."""
    if key is None:
        print(f"{name}: it is configured no more", file=sys.stderr)
        return exit_codes.NOPERM
    trouble = trouble_of(key)
    if not trouble:
        print(f"{name}: released, version {key.get('version')}")
        return exit_codes.OK
    version = key.get("version")
    held = f"; version {version} stays held" if version else ""
    print(f"{name}: not released{held}", file=sys.stderr)
    for line in trouble:
        print(f"  {line}", file=sys.stderr)
    if is_denial(key.get("last_failure") or ""):
        return exit_codes.NOPERM
    return exit_codes.UNAVAILABLE if key.get("needs_attention") else exit_codes.TEMPFAIL
