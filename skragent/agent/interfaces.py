"""The interfaces that the scheduler uses. Tests implement them, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from skragent.agent.cached_token import CachedToken
    from skragent.agent.job_runner import Release
    from skragent.agent.key_records import KeyRecord, NextAttempt, Validity
    from skragent.agent.releaser_process import Launch
    from skragent.errors import AgentError
    from skragent.job import (
        AkCertificate,
        Attestation,
        KeyRequest,
        ReleasedKey,
        Result,
    )
    from skragent.secretmem import Arena


class Jobs(Protocol):
    """Runs one job: implemented by `job_runner.Runner`."""

    @property
    def longest_seconds(self) -> float:
        """The longest time that a job takes."""
        ...

    async def run(
        self,
        keys: Sequence[KeyRequest],
        *,
        launched: Launch | None = None,
        token: CachedToken | None = None,
        deliver: Callable[[Release], None] = lambda _part: None,
    ) -> Release:
        """Run a job that releases these keys.

        Args:
            keys: the keys.
            launched: the job, if its releaser has started already.
            token: to release with; None: the job attests.
            deliver: receives each part of the result but the last.

        Returns:
            the last part.
        """
        ...

    async def check(self, keys: Sequence[KeyRequest]) -> Result:
        """Ask for the latest versions of these keys."""
        ...

    async def renew(self, query_id: str) -> Result:
        """Order a new AK certificate, or fetch the one with this query id."""
        ...


class Reporter(Protocol):
    """Receives every change: implemented by `reporter.Reporter`."""

    def job_ended(self, result: Result) -> None:
        """Report the notes and timings of a job that ended in order."""
        ...

    def attested(self, attestation: Attestation) -> None:
        """Report a new attestation token."""
        ...

    def hold(
        self,
        key: ReleasedKey,
        arena: Arena,
        *,
        request: KeyRequest,
        record: KeyRecord,
        began_at: float,
    ) -> None:
        """Hold and serve a released key, in place of another version or beside it.

        Raises:
            SecretMemoryError: there is not enough memory; the held version stays.
        """
        ...

    def end_overlap(self, alias: str) -> None:
        """Wipe the previous version."""
        ...

    def repeat_notifications(self) -> None:
        """Repeat notifications that systemd could not receive."""
        ...

    def not_valid(self, key: ReleasedKey, validity: Validity) -> None:
        """Report that a released key may not be held, by its own attributes."""
        ...

    def state_changed(self, alias: str, record: KeyRecord) -> None:
        """Report a key's new state; wipe the key if it is no longer held."""
        ...

    def cannot_check(self, alias: str) -> None:
        """Report that the identity may not check a key's versions."""
        ...

    def key_failed(self, alias: str, error: AgentError, following: NextAttempt) -> None:
        """Report that a key was not released, and its next attempt."""
        ...

    def job_failed(
        self, following: Mapping[str, NextAttempt], error: AgentError
    ) -> None:
        """Report that a job failed as a whole, and the next attempt of each key."""
        ...

    def attempt_ended(self, alias: str) -> None:
        """Count an attempt that began after the last request to refresh the key.

        Its result (`hold`, `key_failed`, `job_failed`) is reported before.
        """
        ...

    def ak_certificate(self, certificate: AkCertificate) -> None:
        """Report the end of the AK certificate."""
        ...

    def ak_restored(self) -> None:
        """Report that the AK certificate was restored after an interrupted renewal."""
        ...

    def ak_renewed(self) -> None:
        """Report that there is a new AK certificate."""
        ...

    def ak_renewal_failed(self, error: AgentError, seconds: float) -> None:
        """Report that the renewal failed, and the wait until the next one."""
        ...
