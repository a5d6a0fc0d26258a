"""Vaults and releasers whose answers a test decides, and that watch what is asked."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from support.agent import (
    TOKEN_LIFE_SECONDS,
    FakeClock,
    attestation,
    failure,
    in_parts,
    released_key,
    token_of,
)

from skragent.agent.job_runner import Release
from skragent.errors import ReleaserError
from skragent.job import (
    AkCertificate,
    FailedKey,
    Failure,
    ReleasedKey,
    Result,
    Slice,
)
from skragent.secretmem import create_arena

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from skragent.agent.cached_token import CachedToken
    from skragent.agent.releaser_process import Launch
    from skragent.job import Attestation, KeyRequest

KEY_BYTES = 32
LONGEST_RETRY_AFTER = 600.0

Place = tuple[str, str]  # vault and name


def content(place: Place, version: str) -> bytes:
    """The bytes of a key: no two versions have the same."""
    return hashlib.sha256(repr((place, version)).encode()).digest()


@dataclass
class Version:
    """One version of a key in a vault, with its attributes."""

    number: int
    enabled: bool = True
    not_before: float | None = None
    expires: float | None = None

    @property
    def name(self) -> str:
        return f"{self.number:032x}"


@dataclass
class VaultKey:
    """All versions of a key, the latest last, and what the vault says instead."""

    versions: list[Version] = field(default_factory=lambda: [Version(1)])
    failure: Failure | None = None
    crashes: bool = False  # the releaser that has to do with it

    @property
    def latest(self) -> Version:
        return self.versions[-1]

    def find(self, version: str) -> Version | None:
        if not version:
            return self.latest
        return next((one for one in self.versions if one.name == version), None)


class Cloud:
    """Implements `ports.Jobs`.

    Every job tells `listener` its end; every question must come when it may.
    """

    longest_seconds = 120.0

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.keys: dict[Place, VaultKey] = defaultdict(VaultKey)
        self.whole: Failure | None = None
        self.crashes = False
        self.has_attested = False
        self.crashes_late = False  # after keys were delivered, and others failed
        self.takes = 0.0  # seconds of a job
        self.ak_ends_soon = False  # the AK certificate
        self.has_told_of_ak = False  # a job, since then
        self.renewal: Failure | None = None  # what comes of its renewal
        self.renewals = 0
        self.may_look = True  # for versions: the permission `get`
        self.asks_late = False  # at a job's end, or at its beginning
        self.token_life = TOKEN_LIFE_SECONDS
        self.releases: dict[str, list[float]] = defaultdict(list)
        self.refused_at: dict[str, float] = {}  # keys that need a fresh token
        self.is_running = False
        self.listener: Listener = Listener()

    async def run(
        self,
        keys: Sequence[KeyRequest],
        *,
        launched: Launch | None = None,
        token: CachedToken | None = None,
        deliver: Callable[[Release], None] = lambda _part: None,
    ) -> Release:
        del launched
        assert not self.is_running, "two jobs at once would share the vTPM"
        assert keys, "a job for nothing"
        if token is not None:
            self._judge(token, keys)
        self.is_running = True
        try:
            life = token and _life(token.attestation)
            release = await self._run(
                keys, life or self.token_life, deliver, attests=token is None
            )
        finally:
            self.is_running = False
        for failed in release.result.failed:
            if failed.failure.disposition != "retry":
                self.refused_at[failed.alias] = self.clock.boot
        return release

    def _judge(self, token: CachedToken, keys: Sequence[KeyRequest]) -> None:
        """Hold the agent to its word on tokens that are used again."""
        age = self.clock.boot - token.began_at
        assert age < _life(token.attestation), "a token that has expired"
        for key in keys:
            assert key.alias not in token.released, "a refresh that does not attest"
            refused_at = self.refused_at.get(key.alias, -math.inf)
            assert token.began_at >= refused_at, "no fresh token after a no"

    async def check(self, keys: Sequence[KeyRequest]) -> Result:
        """Return the latest versions, if the identity has the permission."""
        assert not self.is_running, "two jobs at once"
        assert keys, "a look for nothing"
        if self.crashes:
            raise ReleaserError("x", code="releaser.crashed")
        versions = {}
        for key in keys:
            found = self.keys[_place(key)]
            version = found.find(key.version)
            if found.failure is None and version is not None:
                versions[key.alias] = version.name if self.may_look else ""
        return Result(versions=versions)

    async def renew(self, query_id: str) -> Result:
        """Renew the AK certificate, on the second time of asking."""
        assert not self.is_running, "two jobs at once"
        assert self.ak_ends_soon, "a renewal for nothing"
        self.renewals += 1
        if self.crashes:
            raise ReleaserError("x", code="releaser.crashed")
        if self.renewal is not None:
            return Result(failure=self.renewal)
        if not query_id:
            return Result(ak_query_id="1", ak_certificate=self._ak_certificate())
        self.ak_ends_soon = False
        return Result(ak_certificate=self._ak_certificate())

    def _ak_certificate(self) -> AkCertificate:
        self.has_told_of_ak = True
        return AkCertificate(
            expires_at=self.clock.wall, is_renewal_due=self.ak_ends_soon
        )

    async def _run(
        self,
        keys: Sequence[KeyRequest],
        token_life: float,
        deliver: Callable[[Release], None],
        *,
        attests: bool,
    ) -> Release:
        began_at = self.clock.boot
        self.listener.job_began(keys)
        asks_late = self.asks_late
        if not asks_late:
            self._count_releases(keys)
        if self.takes:
            await self.clock.wait(asyncio.Event(), self.takes)
        if asks_late:
            self._count_releases(keys)
        if self.crashes or any(self.keys[_place(key)].crashes for key in keys):
            self.listener.job_crashed(keys)
            raise ReleaserError("x", code="releaser.crashed")
        arena = create_arena(KEY_BYTES * len(keys))
        arena.close_fd()
        if self.whole is not None:
            self.listener.job_failed(keys, self.whole)
            failed_job = Result(
                failure=self.whole, ak_certificate=self._ak_certificate()
            )
            return Release(failed_job, arena, began_at)
        token = self._token(token_life, attests=attests)
        released, failed = [], []
        for number, key in enumerate(keys):
            answer = self._answer(key, number * KEY_BYTES)
            if isinstance(answer, ReleasedKey):
                raw = content(_place(key), answer.version)
                arena.view(number * KEY_BYTES, KEY_BYTES)[:] = raw
                released.append(answer)
                self.listener.key_released(key, answer, began_at, token_life)
            else:
                failed.append((key, answer))
        result = Result(
            ak_certificate=self._ak_certificate(),
            attestation=token if attests else None,
            released=tuple(released),
            failed=tuple(answer for _, answer in failed),
        )
        kept = token_of(result, began_at)
        self.has_attested = True
        first, last = in_parts(result)
        deliver(Release(first, arena, began_at))
        if self.crashes_late and failed:
            self.listener.job_crashed(keys)
            raise ReleaserError("x", code="releaser.crashed")
        for key, answer in failed:
            self.listener.key_failed(key, answer.failure)
        return Release(last, arena, began_at, kept)

    def _token(self, seconds: float, *, attests: bool) -> Attestation:
        if attests:
            self.listener.attested()
        return attestation(
            issued_at=self.clock.wall, expires_at=self.clock.wall + seconds
        )

    def _answer(self, key: KeyRequest, offset: int) -> ReleasedKey | FailedKey:
        found = self.keys[_place(key)]
        version = found.find(key.version)
        trouble = found.failure
        if trouble is None and version is None:
            trouble = failure("release.not_found", "denied")
        if trouble is not None or version is None:
            assert trouble is not None
            return FailedKey(alias=key.alias, failure=trouble)
        return released_key(
            key.alias,
            version=version.name,
            forms={"raw": Slice(offset, KEY_BYTES)},
            enabled=version.enabled,
            not_before=version.not_before,
            expires=version.expires,
        )

    def _count_releases(self, keys: Sequence[KeyRequest]) -> None:
        """Hold the vaults to their 10 in 10 s; a job that cannot attest asks none."""
        if self.whole is not None:
            return
        boot = self.clock.boot
        for key in keys:
            recent = [t for t in self.releases[key.vault] if t > boot - 10 + 1e-6]
            self.releases[key.vault] = [*recent, boot]
            assert len(recent) < 10, f"{key.vault}: more than 10 releases in 10 s"


def _life(attestation: Attestation) -> float:
    return attestation.expires_at - attestation.issued_at


class Listener:
    """Hears what each job is for, and what came of it, at the moment it is told."""

    def job_began(self, keys: Sequence[KeyRequest]) -> None:
        """Hear that a job began."""

    def job_crashed(self, keys: Sequence[KeyRequest]) -> None:
        """Hear that nothing came of it."""

    def job_failed(self, keys: Sequence[KeyRequest], failure: Failure) -> None:
        """Hear that it failed as a whole."""

    def attested(self) -> None:
        """Hear that the provider gave a token."""

    def key_released(
        self, key: KeyRequest, answer: ReleasedKey, began_at: float, token_life: float
    ) -> None:
        """Hear that a key was released, valid or not."""

    def key_failed(self, key: KeyRequest, failure: Failure) -> None:
        """Hear that a key was not."""


def _place(key: KeyRequest) -> Place:
    return key.vault, key.name
