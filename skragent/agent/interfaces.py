"""What the supervisor needs of the world. Tests have others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from skragent.agent.cached_token import HeldToken
    from skragent.agent.job_runner import Release
    from skragent.agent.key_records import Admission, KeyRecord
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
    """Runs one job: `runner.Runner`, or a substitute."""

    @property
    def longest_seconds(self) -> float:
        """Return how long `run` takes at most."""
        ...

    async def run(
        self,
        keys: Sequence[KeyRequest],
        *,
        launched: Launch | None = None,
        token: HeldToken | None = None,
        deliver: Callable[[Release], None] = lambda _part: None,
    ) -> Release:
        """Run a job for these keys, with a token that there is or with a new one.

        `deliver` takes each part of the outcome but the last; the last is returned.
        """
        ...

    async def check(self, keys: Sequence[KeyRequest]) -> Result:
        """Look for the latest versions of these keys."""
        ...

    async def renew(self, query_id: str) -> Result:
        """Have the AK certificate renewed, or fetched by its query's id."""
        ...


class Holder(Protocol):
    """What the supervisor tells of its decisions: to the keyring and the journal."""

    def attested(self, attestation: Attestation) -> None:
        """Tell of a new attestation token."""
        ...

    def hold(
        self,
        key: ReleasedKey,
        arena: Arena,
        *,
        request: KeyRequest,
        life: KeyRecord,
        began_at: float,
    ) -> None:
        """Serve this key from now on, instead of another version or beside it.

        Raises:
            SecretMemoryError: there is no memory for it; what was served stays.
        """
        ...

    def end_overlap(self, alias: str) -> None:
        """Serve the version before no longer."""
        ...

    def repeat_notifications(self) -> None:
        """Tell systemd which keys to keep, where it could not be told before."""
        ...

    def not_admitted(self, key: ReleasedKey, admission: Admission) -> None:
        """Tell that a released key may not be held, by its own attributes."""
        ...

    def changed(self, alias: str, life: KeyRecord) -> None:
        """Show a key's new state; wipe it where it is no longer held."""
        ...

    def cannot_check(self, alias: str) -> None:
        """Tell that new versions of a key are noticed at its refresh only."""
        ...

    def key_failed(
        self, alias: str, error: AgentError, seconds: float, *, wiped_in: float
    ) -> None:
        """Report that a key was not released.

        Args:
            alias: the key.
            error: the reason.
            seconds: until the next attempt.
            wiped_in: seconds until a repeated denial can wipe the held key.
        """
        ...

    def job_failed(
        self, wiped_in: Mapping[str, float], error: AgentError, seconds: float
    ) -> None:
        """Report that a job failed as a whole.

        Args:
            wiped_in: its keys, each with the seconds until a repeated denial can wipe
                the held key.
            error: the reason.
            seconds: until the next attempt.
        """
        ...

    def attempt_ended(self, alias: str) -> None:
        """Count an attempt that ended and began after the last order.

        Its result (`hold`, `key_failed`, `job_failed`) is told before.
        """
        ...

    def ak_certificate(self, certificate: AkCertificate) -> None:
        """Tell how long the AK certificate holds."""
        ...

    def ak_restored(self) -> None:
        """Tell that the AK certificate was restored after an interrupted renewal."""
        ...

    def ak_renewed(self) -> None:
        """Tell that there is a new AK certificate."""
        ...

    def ak_renewal_failed(self, error: AgentError, seconds: float) -> None:
        """Tell that there is none, and when it is tried again."""
        ...
