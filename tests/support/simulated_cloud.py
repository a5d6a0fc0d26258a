"""Simulated vaults and releasers, which check the requests of the agent."""

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
MAX_RETRY_AFTER_SECONDS = 600.0

KeyId = tuple[str, str]  # vault and name


def bytes_of_version(key_id: KeyId, version: str) -> bytes:
    """Return the bytes of a version of a key. Each version has other bytes."""
    return hashlib.sha256(repr((key_id, version)).encode()).digest()


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
    """All versions of a key, the latest last, and the faults of its release."""

    versions: list[Version] = field(default_factory=lambda: [Version(1)])
    failure: Failure | None = None  # in place of a release
    crashes: bool = False  # each job with this key crashes

    @property
    def latest(self) -> Version:
        return self.versions[-1]

    def find(self, version: str) -> Version | None:
        if not version:
            return self.latest
        return next((known for known in self.versions if known.name == version), None)


class SimulatedCloud:
    """Implements `interfaces.Jobs`.

    `listener` receives the events of each job. A request at a forbidden time fails the
    test.
    """

    longest_seconds = 120.0

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.keys: dict[KeyId, VaultKey] = defaultdict(VaultKey)
        self.job_failure: Failure | None = None  # of each job as a whole
        self.crashes = False  # each job crashes
        self.has_attested = False
        # Each job with a failed key crashes after it delivered the released keys.
        self.crashes_late = False
        self.job_seconds = 0.0
        self.is_ak_renewal_due = False
        self.has_reported_ak = False  # a job has reported that the renewal is due
        self.renewal_failure: Failure | None = None  # of each renewal
        self.renewals = 0
        self.may_check_versions = True  # the permission `get`
        self.releases_at_end = False  # of a job, not at its beginning
        self.token_life = TOKEN_LIFE_SECONDS
        self.releases: dict[str, list[float]] = defaultdict(list)
        self.denied_at: dict[str, float] = {}  # keys that need a fresh token
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
        assert keys, "a job without keys"
        if token is not None:
            self._check_token(token, keys)
        self.is_running = True
        try:
            lifetime = token and _lifetime(token.attestation)
            release = await self._run(
                keys, lifetime or self.token_life, deliver, attests=token is None
            )
        finally:
            self.is_running = False
        for failed in release.result.failed:
            if failed.failure.disposition != "retry":
                self.denied_at[failed.alias] = self.clock.boot
        return release

    def _check_token(self, token: CachedToken, keys: Sequence[KeyRequest]) -> None:
        """Check that the agent may use this cached token for these keys."""
        age = self.clock.boot - token.began_at
        assert age < _lifetime(token.attestation), "the token has expired"
        for key in keys:
            assert key.alias not in token.released, "a refresh without an attestation"
            denied_at = self.denied_at.get(key.alias, -math.inf)
            assert token.began_at >= denied_at, "no fresh token after a denial"

    async def check(self, keys: Sequence[KeyRequest]) -> Result:
        """Return the latest versions, if the identity has the permission."""
        assert not self.is_running, "two jobs at once"
        assert keys, "a version check without keys"
        if self.crashes:
            raise ReleaserError("x", code="releaser.crashed")
        versions = {}
        for key in keys:
            found = self.keys[_key_id(key)]
            version = found.find(key.version)
            if found.failure is None and version is not None:
                versions[key.alias] = version.name if self.may_check_versions else ""
        return Result(versions=versions)

    async def renew(self, query_id: str) -> Result:
        """Order a new AK certificate; return it to the request with the query id."""
        assert not self.is_running, "two jobs at once"
        assert self.is_ak_renewal_due, "the renewal is not due"
        self.renewals += 1
        if self.crashes:
            raise ReleaserError("x", code="releaser.crashed")
        if self.renewal_failure is not None:
            return Result(failure=self.renewal_failure)
        if not query_id:
            return Result(ak_query_id="1", ak_certificate=self._ak_certificate())
        self.is_ak_renewal_due = False
        return Result(ak_certificate=self._ak_certificate())

    def _ak_certificate(self) -> AkCertificate:
        self.has_reported_ak = True
        return AkCertificate(
            expires_at=self.clock.wall, is_renewal_due=self.is_ak_renewal_due
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
        releases_at_end = self.releases_at_end
        if not releases_at_end:
            self._count_releases(keys)
        if self.job_seconds:
            await self.clock.wait(asyncio.Event(), self.job_seconds)
        if releases_at_end:
            self._count_releases(keys)
        if self.crashes or any(self.keys[_key_id(key)].crashes for key in keys):
            self.listener.job_crashed(keys)
            raise ReleaserError("x", code="releaser.crashed")
        arena = create_arena(KEY_BYTES * len(keys))
        arena.close_fd()
        if self.job_failure is not None:
            self.listener.job_failed(keys, self.job_failure)
            failed_job = Result(
                failure=self.job_failure, ak_certificate=self._ak_certificate()
            )
            return Release(failed_job, arena, began_at)
        token = self._token(token_life, attests=attests)
        released, failed = [], []
        for number, key in enumerate(keys):
            outcome = self._release(key, number * KEY_BYTES)
            if isinstance(outcome, ReleasedKey):
                raw = bytes_of_version(_key_id(key), outcome.version)
                arena.view(number * KEY_BYTES, KEY_BYTES)[:] = raw
                released.append(outcome)
                self.listener.key_released(key, outcome, began_at, token_life)
            else:
                failed.append((key, outcome))
        result = Result(
            ak_certificate=self._ak_certificate(),
            attestation=token if attests else None,
            released=tuple(released),
            failed=tuple(outcome for _, outcome in failed),
        )
        kept = token_of(result, began_at)
        self.has_attested = True
        first, last = in_parts(result)
        deliver(Release(first, arena, began_at))
        if self.crashes_late and failed:
            self.listener.job_crashed(keys)
            raise ReleaserError("x", code="releaser.crashed")
        for key, outcome in failed:
            self.listener.key_failed(key, outcome.failure)
        return Release(last, arena, began_at, kept)

    def _token(self, seconds: float, *, attests: bool) -> Attestation:
        if attests:
            self.listener.attested()
        return attestation(
            issued_at=self.clock.wall, expires_at=self.clock.wall + seconds
        )

    def _release(self, key: KeyRequest, offset: int) -> ReleasedKey | FailedKey:
        found = self.keys[_key_id(key)]
        version = found.find(key.version)
        if found.failure is not None:
            return FailedKey(alias=key.alias, failure=found.failure)
        if version is None:
            denial = failure("release.not_found", "denied")
            return FailedKey(alias=key.alias, failure=denial)
        return released_key(
            key.alias,
            version=version.name,
            forms={"raw": Slice(offset, KEY_BYTES)},
            enabled=version.enabled,
            not_before=version.not_before,
            expires=version.expires,
        )

    def _count_releases(self, keys: Sequence[KeyRequest]) -> None:
        """Check the release rate limit: 10 releases in 10 s.

        A job that fails as a whole sends no request to a vault.
        """
        if self.job_failure is not None:
            return
        boot = self.clock.boot
        for key in keys:
            recent = [t for t in self.releases[key.vault] if t > boot - 10 + 1e-6]
            self.releases[key.vault] = [*recent, boot]
            assert len(recent) < 10, f"{key.vault}: more than 10 releases in 10 s"


def _lifetime(attestation: Attestation) -> float:
    return attestation.expires_at - attestation.issued_at


class Listener:
    """Receives the events of each job at the time at which they occur."""

    def job_began(self, keys: Sequence[KeyRequest]) -> None:
        """Receive the keys of a job that begins."""

    def job_crashed(self, keys: Sequence[KeyRequest]) -> None:
        """Receive the keys of a job that crashed."""

    def job_failed(self, keys: Sequence[KeyRequest], failure: Failure) -> None:
        """Receive the failure of a job as a whole."""

    def attested(self) -> None:
        """Receive the event that the provider issued a token."""

    def key_released(
        self, key: KeyRequest, released: ReleasedKey, began_at: float, token_life: float
    ) -> None:
        """Receive a released key, which may be not valid."""

    def key_failed(self, key: KeyRequest, failure: Failure) -> None:
        """Receive the failure of one key."""


def _key_id(key: KeyRequest) -> KeyId:
    return key.vault, key.name
