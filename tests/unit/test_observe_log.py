"""What is written to the journal, and what never is."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

import pytest

from skragent.observe import Event, log, set_up_logging
from skragent.observe.log import is_stderr_the_journal

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _root_logger() -> Iterator[None]:
    """Give back the handlers that pytest installed."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_line_has_the_level_the_sentence_and_the_fields(
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_up_logging({})
    log(Event.KEY_RELEASED, "released db", key="db", version=None, seconds=1.5)
    assert capsys.readouterr().err == "INFO released db | key=db seconds=1.5\n"


def test_an_entry_carries_its_message_id_and_fields(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log(Event.KEY_FAILED, "100% refused", code="release.denied")
    (record,) = caplog.records
    assert record.getMessage() == "100% refused"
    assert record.levelno == logging.WARNING
    assert vars(record)["MESSAGE_ID"] == Event.KEY_FAILED.message_id
    assert vars(record)["SKRAGENT_CODE"] == "release.denied"


@pytest.mark.parametrize("value", [b"x", bytearray(b"x"), memoryview(b"x"), ["x"]])
def test_bytes_are_never_logged(
    value: object, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(TypeError):
        log(Event.KEY_RELEASED, "released", key=value)  # type: ignore[arg-type]
    assert not caplog.records


def test_an_unexpected_error_is_written_with_its_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_up_logging({})
    log(Event.REQUEST_FAILED, "a request failed", error=ZeroDivisionError(), uid=0)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "ERROR a request failed | uid=0"
    assert lines[-1] == "builtins.ZeroDivisionError"


def test_setting_up_twice_writes_once(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging({})
    set_up_logging({})
    log(Event.STARTED, "started")
    assert capsys.readouterr().err == "INFO started\n"


def test_the_journal_is_known_by_the_device_and_inode_of_stderr(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", sys.__stderr__)
    status = os.fstat(2)
    assert is_stderr_the_journal(f"{status.st_dev}:{status.st_ino}")
    assert not is_stderr_the_journal(f"{status.st_dev}:{status.st_ino + 1}")
    assert not is_stderr_the_journal("")
    assert capfd.readouterr().err == ""


def test_the_journal_handler_sends_our_identifier() -> None:
    pytest.importorskip("systemd.journal")
    status = os.fstat(sys.stderr.fileno())
    set_up_logging({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
    (handler,) = logging.getLogger().handlers
    assert type(handler).__name__ == "JournalHandler"
