"""The agent's world in tests: a clock that tests move, and a substitute releaser."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec
from support.deadlines import DEADLINE_SECONDS

from skragent.agent.cached_token import CachedToken
from skragent.agent.due_times import refresh_after_seconds
from skragent.config import Config, parse_config
from skragent.job import Attestation, Failure, ReleasedKey, Result, Slice

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

NOW = 1767225600.0  # 2026-01-01T00:00Z
BOOTTIME = 1000.0
TOKEN_LIFE_SECONDS = 8 * 3600.0
MID_JITTER = 0.5
REFRESH_SECONDS = refresh_after_seconds(TOKEN_LIFE_SECONDS)

SUBSTITUTE = Path(__file__).with_name("agent_releaser.py")

VERSION = "0123456789abcdef0123456789abcdef"

Word = Literal["retry", "reattest", "retry_slowly", "denied", "fatal"]

_T = TypeVar("_T")


def run(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run one test's coroutine, with a limit of its own."""

    async def limited() -> _T:
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await coroutine

    return asyncio.run(limited())


async def settle() -> None:
    """Run everything that can run before time passes."""
    for _ in range(12):
        await asyncio.sleep(0)


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for another process; `run` limits how long."""
    while not is_so():  # noqa: ASYNC110 - no event of ours tells when
        await asyncio.sleep(0.01)


class FakeClock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.wall = NOW
        self.boot = BOOTTIME
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self.wall

    def boottime(self) -> float:
        return self.boot

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        if event.is_set() or seconds <= 0:
            return event.is_set()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        sleeper = (self.boot + seconds, future)
        self._sleepers.append(sleeper)
        waiter = asyncio.ensure_future(event.wait())
        try:
            both: set[asyncio.Future[Any]] = {future, waiter}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._sleepers.remove(sleeper)
            waiter.cancel()
        return event.is_set()

    async def advance(self, seconds: float) -> None:
        """Let time pass, waking every sleeper at its own moment."""
        end = self.boot + seconds
        await settle()
        while due := [s for s in self._sleepers if s[0] <= end and not s[1].done()]:
            moment, future = min(due, key=lambda sleeper: sleeper[0])
            self._move_to(max(moment, self.boot))
            future.set_result(None)
            await settle()
        self._move_to(end)
        await settle()

    def _move_to(self, boot: float) -> None:
        self.wall += boot - self.boot
        self.boot = boot


def substitute(mode: str, *arguments: str) -> tuple[str, ...]:
    """The command of a releaser that behaves as `mode` says."""
    return (sys.executable, "-I", str(SUBSTITUTE), mode, *arguments)


def make_config(*aliases: str, extra: str = "") -> Config:
    """A configuration with these keys, which the user of the tests may read."""
    keys = "".join(
        f'[keys.{alias}]\nvault = "https://v.vault.azure.net"\n'
        f"allow = [{{ user = {os.getuid()} }}]\n"
        for alias in aliases
    )
    return parse_config(extra + keys)


def released_key(alias: str = "disk", **changes: object) -> ReleasedKey:
    values: dict[str, Any] = {
        "alias": alias,
        "kid": f"https://v.vault.azure.net/keys/{alias}/{VERSION}",
        "version": VERSION,
        "kty": "oct",
        "fingerprint": "",
        "public_jwk": "",
        "public_pem": "",
        "forms": {"raw": Slice(0, 32)},
    }
    return ReleasedKey(**(values | changes))


def attestation(**changes: object) -> Attestation:
    values: dict[str, Any] = {
        "issuer": "https://sharedeus.eus.attest.azure.net",
        "issued_at": NOW,
        "expires_at": NOW + TOKEN_LIFE_SECONDS,
        "token_sha256": "00" * 32,
        "compliance_status": "azure-compliant-cvm",
        "vm_id": "vm",
        "chip_generation": "Milan",
        "report_version": 2,
        "verified": (),
    }
    return Attestation(**(values | changes))


def in_parts(result: Result) -> tuple[Result, Result]:
    """A job's result as it is delivered: what was released, and then the rest."""
    first = Result(
        is_last=False,
        attestation=result.attestation,
        token=result.token,
        released=result.released,
    )
    rest = {"attestation": None, "token": "", "released": ()}
    return first, msgspec.structs.replace(result, **rest)


def token_of(result: Result, began_at: float) -> CachedToken | None:
    """Keep a job's token, where it attested."""
    if result.attestation is None:
        return None
    return CachedToken(result.attestation, began_at, "token", memoryview(b""))


def failure(code: str, disposition: Word, retry_after: float | None = None) -> Failure:
    return Failure(
        code=code, disposition=disposition, message="why", retry_after=retry_after
    )
