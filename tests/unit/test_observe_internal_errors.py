"""A traceback is logged once, then counted."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from skragent.observe import INTERNAL_ERRORS, Counters, Event, InternalErrors, log
from skragent.observe.internal_errors import MAX_KINDS
from skragent.observe.log import set_up_logging
from skragent.observe.metrics import MetricsPage

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    """Give back what pytest installed."""
    root = logging.getLogger()
    handlers, level, raises = list(root.handlers), root.level, logging.raiseExceptions
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.raiseExceptions = raises


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def fail(how: int = 0) -> Exception:
    try:
        if how:
            raise KeyError("k")  # noqa: TRY301 - it is caught here on purpose
        return ValueError(int("x"))
    except (KeyError, ValueError) as error:
        return error


def fail_there() -> Exception:
    try:
        return ValueError(int("y"))
    except ValueError as error:
        return error


def logged(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_the_first_time_has_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging({})
    log(Event.REQUEST_FAILED, "a request failed", error=fail(), uid=5)
    lines = logged(capsys)
    assert lines[0] == "ERROR a request failed | uid=5"
    assert lines[1].startswith('  File "')
    assert lines[-1].startswith("builtins.ValueError: invalid literal")


def test_the_second_time_is_one_line_with_the_count(
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_up_logging({})
    log(Event.REQUEST_FAILED, "a request failed", error=fail())
    logged(capsys)
    log(Event.REQUEST_FAILED, "a request failed", error=fail(), uid=5)
    (line,) = logged(capsys)
    assert line.startswith(f"ERROR a request failed: ValueError at {__file__}:")
    assert line.endswith(", 2 times | uid=5")


def test_a_flood_of_one_error_does_not_fill_the_log(
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_up_logging({})
    for _ in range(10_000):
        log(Event.REQUEST_FAILED, "a request failed", error=fail())
    lines = logged(capsys)
    assert len(lines) < 30
    assert sum(line.startswith("  File") for line in lines) == 1
    assert INTERNAL_ERRORS.counts["request_failed"] == 10_000


def test_another_place_and_another_type_are_told_in_full(
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_up_logging({})
    for error in (fail(), fail(1), fail_there(), fail(), fail(1), fail_there()):
        log(Event.REQUEST_FAILED, "a request failed", error=error)
    lines = logged(capsys)
    assert sum(line.startswith("  File") for line in lines) == 3
    assert sum(line.endswith(", 2 times") for line in lines) == 3


def test_what_a_library_logs_is_told_once_as_well(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """asyncio logs what a callback raises, such as one that a local user triggers."""
    set_up_logging({})
    for _ in range(100):
        logging.getLogger("asyncio").error("Exception in callback", exc_info=fail())
    lines = logged(capsys)
    assert sum(line.startswith("  File") for line in lines) == 1
    assert len(lines) < 15
    assert INTERNAL_ERRORS.counts["other"] == 100


def test_entries_without_an_exception_are_left_as_they_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_up_logging({})
    for _ in range(5):
        log(Event.KEY_STALE, "key db is stale")
    assert logged(capsys) == ["WARNING key db is stale"] * 5
    assert sum(INTERNAL_ERRORS.counts.values()) == 0


def test_an_endless_recursion_is_told_in_a_few_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def recurse() -> None:
        recurse()

    set_up_logging({})
    for _ in range(3):
        try:
            recurse()
        except RecursionError as error:
            log(Event.REQUEST_FAILED, "a request failed", error=error)
    lines = logged(capsys)
    assert len(lines) < 50
    assert sum("RecursionError" in line for line in lines) == 2


def test_a_line_comes_at_each_doubling_and_once_a_minute() -> None:
    clock = Clock()
    errors = InternalErrors(clock)
    due = [errors.note("kind").is_due for _ in range(9)]
    assert due == [True, True, False, True, False, False, False, True, False]
    clock.now += 59
    assert not errors.note("kind").is_due
    clock.now += 1
    assert errors.note("kind").is_due
    assert not errors.note("kind").is_due


def test_the_table_is_bounded() -> None:
    errors = InternalErrors(Clock())
    told = [errors.note(("kind", number)) for number in range(10_000)]
    assert sum(seen.is_first for seen in told) == MAX_KINDS
    assert sum(seen.is_due for seen in told) < MAX_KINDS + 20
    assert errors.note(("kind", 0)).times == 2
    assert errors.note("one more").times == 10_000 - MAX_KINDS + 1


def test_the_metric_is_there_before_the_first_and_counts_each() -> None:
    counters = Counters()

    def metric(event: str) -> str:
        page = MetricsPage(counters, list).render("")[0].decode()
        return page.partition(f'skragent_internal_errors_total{{event="{event}"}} ')[2][
            :3
        ]

    events = ("request_failed", "config_refused", "fatal", "releaser_said", "other")
    assert [metric(event) for event in events] == ["0.0"] * 5
    INTERNAL_ERRORS.count("config_refused")
    INTERNAL_ERRORS.count("no such event")
    assert metric("config_refused") == "1.0"
    assert metric("other") == "1.0"


def test_an_entry_with_invalid_utf_8_is_logged(
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_up_logging({})
    log(Event.ACCESS_DENIED, "unit \udcff", unit="\ud800")
    assert logged(capsys) == ["WARNING unit \\udcff | unit=\\ud800"]
