"""What releasers say on stderr is logged once, then counted."""

from __future__ import annotations

import os

import msgspec
import pytest
from support.agent import attestation, released_key

from skragent.agent.releaser_log import NoteLog, StderrLog
from skragent.agent.releaser_output import ResultReader
from skragent.errors import ReleaserError
from skragent.job import MAX_NOTE_CHARACTERS, MAX_NOTES, Result
from skragent.observe import Event, InternalErrors

CRASH = [
    '  File "/usr/lib/skragent/releaser/pipeline.py", line 100, in run',
    "    self._open_lane()",
    "builtins.RecursionError",
]


def test_a_crash_is_logged_in_full_and_then_counted() -> None:
    errors = InternalErrors()
    output = StderrLog(errors)
    assert output.new_lines(CRASH, os.EX_SOFTWARE) == CRASH
    assert output.new_lines(CRASH, os.EX_SOFTWARE) == [
        "builtins.RecursionError (as before, 2 times)"
    ]
    assert errors.counts["releaser_said"] == 2


def test_a_releaser_that_crashes_all_day_does_not_fill_the_log() -> None:
    errors = InternalErrors(lambda: 0.0)
    output = StderrLog(errors)
    lines = [line for _ in range(10_000) for line in output.new_lines(CRASH, 70)]
    assert len(lines) < 30
    assert errors.counts["releaser_said"] == 10_000


def test_a_crash_at_another_line_is_logged_in_full() -> None:
    output = StderrLog(InternalErrors())
    output.new_lines(CRASH, 70)
    other = [CRASH[0].replace("100", "101"), *CRASH[1:]]
    assert output.new_lines(other, 70) == other


def test_numbers_that_differ_do_not_make_another_text() -> None:
    output = StderrLog(InternalErrors())
    assert output.new_lines(["pid 17 at 0x7f1c failed"], 1) == [
        "pid 17 at 0x7f1c failed"
    ]
    assert output.new_lines(["pid 18 at 0x7fff failed"], 1) == [
        "pid 18 at 0x7fff failed (as before, 2 times)"
    ]


def test_only_a_crash_is_counted_as_a_crash() -> None:
    errors = InternalErrors()
    assert StderrLog(errors).new_lines([], -9) == []
    assert errors.counts["releaser_said"] == 0


def test_a_crash_without_words_is_counted() -> None:
    errors = InternalErrors()
    assert StderrLog(errors).new_lines([], os.EX_SOFTWARE) == []
    assert errors.counts["releaser_said"] == 1


NOTE = "trust.amd_roots: /etc/roots.pem: certificate 1 of 2 is skipped: it is odd"


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if vars(record)["MESSAGE_ID"] == Event.NOTE.message_id
    ]


def test_a_note_is_logged_once_however_often_it_comes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    notes = NoteLog()
    for _ in range(3):
        notes.add([NOTE, "another"])
    assert logged(caplog) == [NOTE, "another"]


def test_a_note_is_one_line_without_what_looks_like_a_secret(
    caplog: pytest.LogCaptureFixture,
) -> None:
    NoteLog().add(["a\nb\x1b[31m eyJhbGciOiJSUzI1NiJ9.e30.c2ln " + "k" * 50])
    assert logged(caplog) == ["a b?[31m [token] [50 characters]"]


def test_notes_that_are_always_new_do_not_fill_the_journal(
    caplog: pytest.LogCaptureFixture,
) -> None:
    notes = NoteLog()
    notes.add(f"note {i}" for i in range(10_000))
    assert 0 < len(logged(caplog)) < 1000


def parse(notes: tuple[str, ...]) -> Result:
    result = Result(
        attestation=attestation(),
        token="t.o.ken",
        released=(released_key("disk"),),
        notes=notes,
    )
    reader = ResultReader(frozenset({"disk"}))
    reader.feed(msgspec.json.encode(result))
    return reader.finish()


def test_notes_cross_the_pipe() -> None:
    assert parse((NOTE,)).notes == (NOTE,)


@pytest.mark.parametrize(
    "notes", [(NOTE,) * (MAX_NOTES + 1), ("x" * (MAX_NOTE_CHARACTERS + 1),)]
)
def test_notes_that_are_too_many_or_too_long_make_a_result_garbage(
    notes: tuple[str, ...],
) -> None:
    with pytest.raises(ReleaserError) as caught:
        parse(notes)
    assert caught.value.code == "releaser.garbage"
