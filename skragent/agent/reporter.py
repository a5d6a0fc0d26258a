"""What the supervisor decides, carried out: on the keyring, in numbers, in the journal.

Says what it holds by version and fingerprint, never more.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from skragent.agent.due_times import NEEDS_ATTENTION
from skragent.agent.key_records import Admission
from skragent.errors import AgentError, Disposition
from skragent.keyring import KeyState, PreservedRecord, hold_key
from skragent.observe import Event, log, names
from skragent.secretmem import explain_fallback

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skragent.agent.clock import Clock
    from skragent.agent.key_records import KeyRecord
    from skragent.agent.preserved_keys import PreservedKeys
    from skragent.agent.systemd_notify import Notifier
    from skragent.job import AkCertificate, Attestation, KeyRequest, ReleasedKey
    from skragent.keyring import Keyring
    from skragent.observe import Counters
    from skragent.secretmem import Arena


class Holder:
    """Implements `ports.Holder`."""

    def __init__(
        self,
        keyring: Keyring,
        counters: Counters,
        clock: Clock,
        notifier: Notifier,
        preserved: PreservedKeys,
    ) -> None:
        self._keyring = keyring
        self._preserved = preserved
        self._counters = counters
        self._clock = clock
        self._notifier = notifier

    def attested(self, attestation: Attestation) -> None:
        """Tell of a token; of what was verified for it, the first time."""
        if self._counters.attested_at is None:
            for sentence in attestation.verified:
                log(Event.JOB_DONE, f"verified: {sentence}")
        self._counters.count_attestation(names.RESULT_SUCCESS)
        self._counters.attested_at = self._clock.now()
        self._counters.token_expires_at = attestation.expires_at
        until = _moment(attestation.expires_at)
        log(
            Event.JOB_DONE,
            f"attested by {attestation.issuer} until {until}",
            compliance=attestation.compliance_status,
            chip=attestation.chip_generation,
            token_sha256=attestation.token_sha256,
        )

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
        self._note_memory(arena)
        record = PreservedRecord(
            vault=request.vault,
            name=request.name,
            key=key,
            released_at=self._clock.now(),
            began_at=began_at,
            stale_at=life.stale_at,
            overlap_until=life.overlap_until if life.has_previous else None,
        )
        held = hold_key(record, arena)
        # The new version first: an agent that ends in between leaves one of the two.
        self._preserved.preserve(held)
        self._keyring.put(held, keeps_previous=life.has_previous)
        self._counters.count_release(key.alias, names.RESULT_SUCCESS)
        if not key.repeats_nonce:
            self._counters.count_missing_nonce(key.alias)
        log(
            Event.KEY_RELEASED,
            f"key {key.alias}: version {key.version} is held",
            key=key.alias,
            version=key.version,
            kty=key.kty,
            fingerprint=key.fingerprint or None,
        )
        self.show_status()

    def end_overlap(self, alias: str) -> None:
        """Serve the version before no longer."""
        self._keyring.end_overlap(alias)

    def repeat_notifications(self) -> None:
        """Tell systemd which keys to keep, where it could not be told before."""
        self._preserved.repeat()

    def cannot_check(self, alias: str) -> None:
        """Tell that new versions of a key are noticed at its refresh only."""
        log(
            Event.CANNOT_CHECK,
            f"key {alias}: the identity has no permission to look for new versions"
            " (`get`): they are noticed at the next refresh",
            key=alias,
        )

    def not_admitted(self, key: ReleasedKey, admission: Admission) -> None:
        """Tell that a released key may not be held, by its own attributes."""
        what = f"version {key.version} was released, but by its own attributes it may"
        message, hint = f"{what} not be used now", ""
        if admission is Admission.EXPIRED and key.expires is not None:
            message = f"{what} be used until {_moment(key.expires)} only"
            hint = "Rotate the key, or change its attribute `exp`."
        elif admission is Admission.NOT_YET and key.not_before is not None:
            message = f"{what} not be used before {_moment(key.not_before)}"
            hint = "Wait, or change the key's attribute `nbf`."
        self._keyring.note_failure(
            key.alias,
            admission.value,
            message=message,
            hint=hint,
            needs_attention=True,
        )
        self._counters.count_release(key.alias, names.RESULT_DENIED, admission.value)
        log(
            Event.ATTENTION,
            f"key {key.alias}: {message}",
            key=key.alias,
            version=key.version,
            code=admission.value,
        )

    def changed(self, alias: str, life: KeyRecord) -> None:
        """Show a key's new state; wipe it where it is no longer held."""
        if life.state is KeyState.CURRENT:
            return  # `hold` did it
        if life.state is KeyState.WAITING:  # it was dropped, and may come back
            self._keyring.mark(alias, life.state)
            return
        entry = self._keyring.get(alias)
        was_held = entry is not None and entry.key is not None
        if life.is_held:
            event, what = Event.KEY_STALE, "is stale: its refresh is overdue"
        else:
            event = Event.KEY_DROPPED
            what = f"is {life.state}" + (" and wiped" if was_held else "")
        code = entry.failure_code if entry else ""
        if life.state is not KeyState.DROPPED:  # whose order is in the journal already
            log(
                event,
                f"key {alias} {what}",
                key=alias,
                state=life.state,
                code=code or None,
            )
        self._keyring.mark(alias, life.state)
        self.show_status()

    def key_failed(
        self, alias: str, error: AgentError, seconds: float, *, wiped_in: float
    ) -> None:
        """Report that a key was not released; see `interfaces.Holder`."""
        self._note_failure(alias, error, seconds, wiped_in)
        self._counters.count_release(alias, _result(error), error.code)
        warning = self._warn_of_wiping({alias: wiped_in})
        _log_failure(
            Event.KEY_FAILED, f"key {alias}: ", error, seconds, alias, warning=warning
        )
        self.show_status()

    def job_failed(
        self, wiped_in: Mapping[str, float], error: AgentError, seconds: float
    ) -> None:
        """Report that a job failed as a whole; see `interfaces.Holder`."""
        for alias, left in wiped_in.items():
            self._note_failure(alias, error, seconds, left)
        self._counters.count_attestation(_result(error), error.code)
        warning = self._warn_of_wiping(wiped_in)
        _log_failure(Event.JOB_FAILED, "", error, seconds, None, warning=warning)
        self.show_status()

    def _warn_of_wiping(self, wiped_in: Mapping[str, float]) -> str:
        """Return a sentence about the held keys that a repeated denial wipes."""
        times = {alias: left for alias, left in wiped_in.items() if left < math.inf}
        if not times:
            return ""
        moment = _moment(self._clock.now() + min(times.values()))
        return (
            f" If the denial is repeated at {moment} or later, the agent wipes the held"
            f" key {', '.join(times)}."
        )

    def attempt_ended(self, alias: str) -> None:
        """Count an attempt for an administrator who waits for the result."""
        self._keyring.note_attempt(alias)

    def ak_certificate(self, certificate: AkCertificate) -> None:
        """Remember how long the AK certificate holds."""
        self._counters.ak_certificate_expires_at = certificate.expires_at

    def ak_restored(self) -> None:
        """Tell that the AK certificate was restored after an interrupted renewal."""
        log(
            Event.AK_RESTORED,
            "the AK certificate was lost by a renewal that was interrupted, and is"
            " restored from its copy",
        )

    def ak_renewed(self) -> None:
        """Tell that there is a new AK certificate."""
        self._counters.count_ak_renewal(names.RESULT_SUCCESS)
        expires_at = self._counters.ak_certificate_expires_at
        until = "" if expires_at is None else f": it holds until {_moment(expires_at)}"
        log(Event.AK_RENEWED, f"the AK certificate is renewed{until}")

    def ak_renewal_failed(self, error: AgentError, seconds: float) -> None:
        """Tell that there is none, and when it is tried again."""
        self._counters.count_ak_renewal(_result(error), error.code)
        prefix = "the AK certificate could not be renewed: "
        _log_failure(Event.AK_RENEWAL_FAILED, prefix, error, seconds, None)

    def show_status(self) -> None:
        """Keep the line of `systemctl status` true."""
        entries = list(self._keyring)
        held = sum(entry.key is not None for entry in entries)
        codes = sorted({entry.failure_code for entry in entries} - {""})
        trouble = f"; {', '.join(codes)}" if codes else ""
        self._notifier.status(f"{held} of {len(entries)} keys held{trouble}")

    def _note_failure(
        self, alias: str, error: AgentError, seconds: float, wiped_in: float
    ) -> None:
        now = self._clock.now()
        self._keyring.note_failure(
            alias,
            error.code,
            message=error.message,
            hint=error.hint,
            retry_at=now + seconds,
            wipe_at=None if wiped_in == math.inf else now + wiped_in,
            needs_attention=error.disposition in NEEDS_ATTENTION,
        )

    def _note_memory(self, arena: Arena) -> None:
        if not self._counters.memory_kind and not arena.is_secret:
            log(
                Event.MEMORY_FALLBACK,
                f"keys are in locked memory, which root can read: {explain_fallback()}",
            )
        self._counters.memory_kind = arena.kind


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _result(error: AgentError) -> str:
    denied = error.disposition is Disposition.DENIED
    return names.RESULT_DENIED if denied else names.RESULT_ERROR


def _log_failure(
    event: Event,
    prefix: str,
    error: AgentError,
    seconds: float,
    key: str | None,
    *,
    warning: str = "",
) -> None:
    hint = f" {error.hint}" if error.hint else ""
    message = error.message.removesuffix(".")  # a quoted sentence has its own
    log(
        Event.ATTENTION if error.disposition in NEEDS_ATTENTION else event,
        f"{prefix}{message}.{hint}{warning} Next attempt in {seconds:.0f} s.",
        key=key,
        code=error.code,
    )
