"""The rule of this suite: tests wait for events and do not measure time."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.deadlines import DEADLINE_SECONDS, SHORT_SECONDS

TESTS = Path(__file__).resolve().parents[1]
# bench measures time. packaging and vm run alone and have their own limits.
LAYERS = ("unit", "property", "vectors", "integration", "e2e", "support")
FILES = sorted(file for layer in LAYERS for file in (TESTS / layer).glob("*.py"))

WAITING = {"communicate", "join", "poll", "result", "settimeout", "timeout", "wait"}
LIMITS = {"timeout", "timeout_seconds"}
SHARED = {"DEADLINE_SECONDS", "SHORT_SECONDS"}
CLOCKS = {"monotonic", "perf_counter", "process_time", "sleep", "time"}
OF_THE_PROFILE = {"deadline", "suppress_health_check", "derandomize"}
# The suite's own waits, and the clients of `make chaos`, which run for a given time.
HAVE_A_CLOCK = {"deadlines.py", "chaos_clients.py"}


def is_number(node: ast.expr) -> bool:
    """Return whether the node is a literal number other than 0, which does not wait."""
    return isinstance(node, ast.Constant) and bool(
        isinstance(node.value, int | float) and node.value
    )


def is_own_constant(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id.isupper() and node.id not in SHARED


def waits_by_number(call: ast.Call) -> bool:
    """Return whether a call limits a wait with its own number."""
    limits = [word.value for word in call.keywords if word.arg in LIMITS]
    if any(is_number(limit) or is_own_constant(limit) for limit in limits):
        return True
    function = call.func
    if not isinstance(function, ast.Attribute):
        return False
    if function.attr == "select":
        return any(map(is_number, call.args[3:]))
    if function.attr == "create_connection":
        return any(map(is_number, call.args[1:]))
    return function.attr in WAITING and any(map(is_number, call.args))


def reads_a_clock(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and node.attr in CLOCKS
        and isinstance(node.value, ast.Name)
        and node.value.id == "time"
    )


def settings_of_the_profile(call: ast.Call) -> bool:
    """Return whether a call overrides settings of the profile for one property test."""
    return any(word.arg in OF_THE_PROFILE for word in call.keywords) and (
        isinstance(call.func, ast.Name) and call.func.id == "settings"
    )


def offences(source: str, *, has_clock: bool = False) -> Iterator[tuple[int, str]]:
    """Find violations of the rule: the line, and a description."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and waits_by_number(node):
            yield node.lineno, "a wait with its own number"
        elif isinstance(node, ast.Call) and settings_of_the_profile(node):
            yield node.lineno, "a setting that belongs to the profile"
        elif reads_a_clock(node) and not has_clock and isinstance(node, ast.expr):
            yield node.lineno, "a clock"


@pytest.mark.parametrize(
    "file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}"
)
def test_waits_are_for_events_and_share_their_deadline(file: Path) -> None:
    found = offences(file.read_text(), has_clock=file.name in HAVE_A_CLOCK)
    assert list(found) == []


@pytest.mark.parametrize(
    "source",
    [
        "thread.join(10)",
        "process.wait(timeout=0.5)",
        "subprocess.run(command, timeout=30)",
        "HttpClient(timeout_seconds=1)",
        "session.get(url, timeout=_SECONDS)",
        "select.select([a], [], [], 5)",
        "socket.create_connection(address, 5)",
        "asyncio.timeout(20)",
        "began = time.monotonic()",
        "time.sleep(pause)",
        "@settings(deadline=None)\ndef test(): ...",
    ],
)
def test_a_wait_by_time_is_found(source: str) -> None:
    assert len(list(offences(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "thread.join(DEADLINE_SECONDS)",
        "poll.poll(0)",
        "select.select([a], [], [], 0)",
        "subprocess.run(command, timeout=DEADLINE_SECONDS)",
        "', '.join(names)",
        "VaultClient(timeout_seconds=timeout_seconds)",
        "@settings(max_examples=1500)\ndef test(): ...",
    ],
)
def test_a_wait_for_an_event_is_allowed(source: str) -> None:
    assert list(offences(source)) == []


def test_pytests_timeout_is_longer_than_several_deadlines() -> None:
    text = (TESTS.parent / "pyproject.toml").read_text()
    limit = tomllib.loads(text)["tool"]["pytest"]["ini_options"]["timeout"]
    assert limit >= 3 * DEADLINE_SECONDS
    assert SHORT_SECONDS < 1
