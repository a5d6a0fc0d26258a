"""A version check: a bug at one key does not affect the others."""

from __future__ import annotations

import pytest
from support.deadlines import DEADLINE_SECONDS
from support.release import VERSION

from skragent.job import Job, KeyRequest
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


def make_job() -> Job:
    return Job(
        purpose="check",
        now=1767225600.0,
        timeout_seconds=DEADLINE_SECONDS,
        keys=tuple(
            KeyRequest(alias=name, vault="https://127.0.0.1:1", name=name)
            for name in NAMES
        ),
        arena_fd=-1,
        arena_bytes=0,
        tcti="",
        tcg_log="",
        imds_endpoint="http://127.0.0.1:1",
        amd_roots="",
        authority="https://login.microsoftonline.com",
        attestation_endpoint="https://127.0.0.1:1",
        tls_roots="",
        release_roots="",
    )


def test_a_bug_at_one_key_does_not_affect_other_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vault_clients, "Vaults", BrokenVaults)
    monkeypatch.setattr(job_io, "_reported", set())
    result = run_version_check(make_job(), Stopwatch())
    assert result.versions == {"good": VERSION, "other": VERSION}
    (failed,) = result.failed
    assert (failed.alias, failed.failure.code) == ("broken", "internal")
