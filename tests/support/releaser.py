"""A real releaser with a job of a configuration, started as the agent starts it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from support.deadlines import DEADLINE_SECONDS

from skragent.agent.jobs import build_job, key_requests
from skragent.config import parse_config
from skragent.job import Job, KeyRequest, Purpose, Result, arena_bytes
from skragent.secretmem import Arena, create_arena


def unreachable_job(*names: str, purpose: Purpose = "release") -> Job:
    """A job for these keys, without an arena. None of its services listens."""
    return Job(
        purpose=purpose,
        now=1767225600.0,
        timeout_seconds=DEADLINE_SECONDS,
        keys=tuple(
            KeyRequest(alias=name, vault="https://127.0.0.1:1", name=name)
            for name in names
        ),
        arena_fd=-1,
        arena_bytes=0,
        tcti="swtpm:path=/nonexistent/tpm.sock",
        tcg_log="",
        imds_endpoint="http://127.0.0.1:1",
        amd_roots="",
        authority="https://login.microsoftonline.com",
        attestation_endpoint="https://127.0.0.1:1",
        tls_roots="",
        release_roots="",
    )


@dataclass
class Releaser:
    """One job, for all keys of a configuration. Close its arena afterwards."""

    config_text: str
    purpose: Purpose
    now: float = 0.0
    authority: str = ""  # of Entra ID; by default the configured cloud's

    def __post_init__(self) -> None:
        config = parse_config(self.config_text)
        self.arena: Arena = create_arena(arena_bytes(len(config.keys)))
        self.job: Job = build_job(
            config,
            list(key_requests(config).values()),
            now=self.now,
            arena_fd=self.arena.fd,
            arena_bytes=self.arena.size,
            tcg_log=config.vtpm.tcg_log,
            purpose=self.purpose,
        )
        if self.authority:
            self.job = msgspec.structs.replace(self.job, authority=self.authority)

    def run(self) -> Result:
        done = subprocess.run(
            [sys.executable, "-I", "-m", "skragent.releaser"],
            input=msgspec.json.encode(self.job),
            capture_output=True,
            pass_fds=(self.arena.fd,),
            check=True,
            timeout=DEADLINE_SECONDS,
        )
        self.arena.close_fd()
        assert done.stderr == b""
        return read_result(done.stdout)


def read_result(output: bytes) -> Result:
    """Read what a releaser wrote."""
    return join_parts(
        [msgspec.json.decode(line, type=Result) for line in output.splitlines()]
    )


def join_parts(parts: Sequence[Result]) -> Result:
    """Join the parts of a result to one."""
    *before, last = parts
    assert not any(part.is_last for part in before)
    assert last.is_last
    attested = next((part for part in parts if part.attestation), Result())
    return msgspec.structs.replace(
        last,
        attestation=attested.attestation,
        token=attested.token,
        released=tuple(key for part in parts for key in part.released),
    )
