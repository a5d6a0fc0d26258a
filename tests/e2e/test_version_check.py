"""A look for new versions, by a real releaser at the emulator's vault."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from support.e2e import config_for, create_key

from skragent.agent.jobs import build_job, key_requests
from skragent.config import parse_config
from skragent.job import ARENA_BYTES_PER_KEY, Result
from skragent.secretmem import create_arena

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skragent.emulator.thread import EmulatorThread

pytestmark = pytest.mark.swtpm


def check(emulator: EmulatorThread, directory: Path, *aliases: str) -> Result:
    config = parse_config(config_for(emulator, directory, *aliases))
    arena = create_arena(ARENA_BYTES_PER_KEY * len(aliases))
    job = build_job(
        config,
        list(key_requests(config).values()),
        now=0,
        arena_fd=arena.fd,
        arena_bytes=arena.size,
        tcg_log="",
        purpose="check",
    )
    done = subprocess.run(
        [sys.executable, "-I", "-m", "skragent.releaser"],
        input=msgspec.json.encode(job),
        capture_output=True,
        pass_fds=(arena.fd,),
        check=True,
        timeout=60,
    )
    arena.close_fd()
    assert done.stderr == b""
    return msgspec.json.decode(done.stdout, type=Result)


@pytest.fixture
def only_release(emulator: EmulatorThread) -> Iterator[None]:
    """The identity has the permission to release, and no other one."""
    access, who = emulator.world.vault.access, emulator.world.azure.vm_identity
    access.grant(who.object_id, "release")
    yield
    access.grant(who.object_id)


def latest(emulator: EmulatorThread, name: str) -> str:
    stored = emulator.world.vault.store.find(name)
    assert stored is not None
    return stored.latest.version


def test_the_latest_versions_are_found_without_tpm_and_verifier(
    emulator: EmulatorThread, directory: Path
) -> None:
    before = len(emulator.world.requests)
    create_key(emulator, "demo:RSA")  # a new version
    result = check(emulator, directory, "demo")
    assert result.versions == {"demo": latest(emulator, "demo")}
    services = {entry.service for entry in emulator.world.requests[before:]}
    assert "maa" not in services


@pytest.mark.usefixtures("only_release")
def test_without_the_permission_to_look_it_says_so(
    emulator: EmulatorThread, directory: Path
) -> None:
    result = check(emulator, directory, "demo")
    assert result.versions == {"demo": ""}
    assert result.failed == ()


def test_a_key_that_is_not_there_is_its_own_trouble(
    emulator: EmulatorThread, directory: Path
) -> None:
    result = check(emulator, directory, "demo", "none")
    assert result.versions == {"demo": latest(emulator, "demo")}
    (failed,) = result.failed
    assert (failed.alias, failed.failure.code) == ("none", "release.not_found")
