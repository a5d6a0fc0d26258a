"""What releasers say on stderr is logged once, then counted."""

from __future__ import annotations

import os

from skragent.agent.releaser_output import ReleaserOutput
from skragent.observe import InternalErrors

CRASH = [
    '  File "/usr/lib/skragent/releaser/pipeline.py", line 100, in run',
    "    self._open_lane()",
    "builtins.RecursionError",
]


def test_a_crash_is_told_in_full_and_then_counted() -> None:
    errors = InternalErrors()
    output = ReleaserOutput(errors)
    assert output.fold(CRASH, os.EX_SOFTWARE) == CRASH
    assert output.fold(CRASH, os.EX_SOFTWARE) == [
        "builtins.RecursionError (as before, 2 times)"
    ]
    assert errors.counts["releaser_said"] == 2


def test_a_releaser_that_crashes_all_day_does_not_fill_the_log() -> None:
    errors = InternalErrors(lambda: 0.0)
    output = ReleaserOutput(errors)
    lines = [line for _ in range(10_000) for line in output.fold(CRASH, 70)]
    assert len(lines) < 30
    assert errors.counts["releaser_said"] == 10_000


def test_a_crash_at_another_line_is_told_in_full() -> None:
    output = ReleaserOutput(InternalErrors())
    output.fold(CRASH, 70)
    other = [CRASH[0].replace("100", "101"), *CRASH[1:]]
    assert output.fold(other, 70) == other


def test_numbers_that_differ_do_not_make_another_text() -> None:
    output = ReleaserOutput(InternalErrors())
    assert output.fold(["pid 17 at 0x7f1c failed"], 1) == ["pid 17 at 0x7f1c failed"]
    assert output.fold(["pid 18 at 0x7fff failed"], 1) == [
        "pid 18 at 0x7fff failed (as before, 2 times)"
    ]


def test_an_end_that_is_no_crash_is_not_counted_as_one() -> None:
    errors = InternalErrors()
    assert ReleaserOutput(errors).fold([], -9) == []
    assert errors.counts["releaser_said"] == 0


def test_a_crash_without_words_is_counted() -> None:
    errors = InternalErrors()
    assert ReleaserOutput(errors).fold([], os.EX_SOFTWARE) == []
    assert errors.counts["releaser_said"] == 1
