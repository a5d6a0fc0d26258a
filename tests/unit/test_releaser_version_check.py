"""A version check: a bug at one key does not affect the others."""

from __future__ import annotations

import pytest
from support.release import VERSION
from support.releaser import unreachable_job

from skragent.job import KeyRequest
from skragent.releaser import job_io, vault_clients
from skragent.releaser.pipeline import run_version_check
from skragent.releaser.stopwatch import Stopwatch

NAMES = ("good", "broken", "other")


class BrokenVaults:
    """Vaults whose library raises an unexpected exception for one key."""

    def __init__(self, *_arguments: object) -> None:
        pass

    def latest_version(self, key: KeyRequest) -> str:
        if key.name == "broken":
            raise LookupError
        return VERSION


def test_a_bug_at_one_key_does_not_affect_other_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vault_clients, "Vaults", BrokenVaults)
    monkeypatch.setattr(job_io, "_reported", set())
    result = run_version_check(unreachable_job(*NAMES, purpose="check"), Stopwatch())
    assert result.versions == {"good": VERSION, "other": VERSION}
    (failed,) = result.failed
    assert (failed.alias, failed.failure.code) == ("broken", "internal")
