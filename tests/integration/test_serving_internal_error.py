"""A request that fails unexpectedly: its caller is told, and the log stays short."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.serving import get, held_key, ring_with
from support.serving_server import RunningServer, serving

from skragent.observe import INTERNAL_ERRORS, set_up_logging

REQUESTS = 3000


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


@pytest.fixture
def broken(tmp_path: Path, stderr: io.StringIO) -> Iterator[RunningServer]:
    """A server with a bug in it, which logs to this stderr."""
    assert stderr.getvalue() == ""

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    root = logging.getLogger()
    handlers, level, raises = list(root.handlers), root.level, logging.raiseExceptions
    set_up_logging({})
    with serving(tmp_path, ring_with(held_key())) as server:
        server.api._listener._handle = fail  # type: ignore[assignment]
        yield server
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.raiseExceptions = raises


def test_a_local_user_cannot_fill_the_journal_with_internal_errors(
    broken: RunningServer, stderr: io.StringIO
) -> None:
    for _ in range(REQUESTS):
        response = broken.ask(get("/v1/status"))
        assert response.status == 500
        assert response.json["code"] == "internal"
    lines = stderr.getvalue().splitlines()
    assert lines[0] == "ERROR a request failed unexpectedly"
    assert 10 < len(lines) < 60
    assert INTERNAL_ERRORS.counts["request_failed"] == REQUESTS
