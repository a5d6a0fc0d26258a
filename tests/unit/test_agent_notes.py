"""Notes of the releaser reach the journal, each of them once."""

from __future__ import annotations

import msgspec
import pytest
from support.agent import attestation, released_key

from skragent.agent.job_results import ResultReader
from skragent.agent.notes import NoteLog
from skragent.errors import ReleaserError
from skragent.job import MAX_NOTE_CHARACTERS, MAX_NOTES, Result
from skragent.observe import Event

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
