"""Carry out what the scheduler reports: in the keyring, the metrics and the journal.

The journal names keys by version and fingerprint only.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from skragent.agent.due_times import NEEDS_ATTENTION
from skragent.agent.key_records import Validity
from skragent.agent.releaser_log import NoteLog
from skragent.errors import AgentError, Disposition
from skragent.keyring import KeyState, PreservedRecord, hold_key
from skragent.observe import Event, log, names
from skragent.secretmem import explain_fallback

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skragent.agent.clock import Clock
    from skragent.agent.key_records import KeyRecord, NextAttempt
    from skragent.agent.preserved_keys import PreservedKeys
    from skragent.agent.systemd_notify import Notifier
    from skragent.job import (
        AkCertificate,
        Attestation,
        KeyRequest,
        ReleasedKey,
        Result,
    )
    from skragent.keyring import Keyring
    from skragent.observe import Counters
    from skragent.secretmem import Arena


class Reporter:
    """Implements `interfaces.Reporter`."""

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
        self._notes = NoteLog()

    def job_ended(self, result: Result) -> None:
        """Report the notes and timings of a job that ended in order."""
        self._notes.add(result.notes)
        self._counters.step_seconds = {
            step: milliseconds / 1000 for step, milliseconds in result.timings.items()
        }

    def attested(self, attestation: Attestation) -> None:
        """Report a token; log what was verified for it the first time."""
        if self._counters.attested_at is None:
            for sentence in attestation.verified:
                log(Event.JOB_DONE, f"verified: {sentence}")
        self._counters.count_attestation(names.RESULT_SUCCESS)
        self._counters.attested_at = self._clock.now()
        self._counters.token_expires_at = attestation.expires_at
        until = _format_time(attestation.expires_at)
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
        record: KeyRecord,
        began_at: float,
    ) -> None:
        """Hold and serve a released key, in place of another version or beside it.

        Raises:
            SecretMemoryError: there is not enough memory; the held version stays.
        """
        self._report_memory(arena)
        preserved = PreservedRecord(
            vault=request.vault,
            name=request.name,
            key=key,
            released_at=self._clock.now(),
            began_at=began_at,
            stale_at=record.stale_at,
            overlap_until=record.overlap_until if record.has_previous else None,
        )
        held = hold_key(preserved, arena)
        # In this order, an agent that ends in between leaves one of the two versions.
        self._preserved.preserve(held)
        self._keyring.put(held, keeps_previous=record.has_previous)
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
        """Wipe the previous version."""
        self._keyring.end_overlap(alias)

    def repeat_notifications(self) -> None:
        """Repeat notifications that systemd could not receive."""
        self._preserved.repeat()

    def cannot_check(self, alias: str) -> None:
        """Report that the identity may not check a key's versions."""
        log(
            Event.CANNOT_CHECK,
            f"key {alias}: the identity has no permission to look for new versions"
            " (`get`): they are noticed at the next refresh",
            key=alias,
        )

    def not_valid(self, key: ReleasedKey, validity: Validity) -> None:
        """Report that a released key may not be held, by its own attributes."""
        what = f"version {key.version} was released, but by its own attributes it may"
        message, hint = f"{what} not be used now", ""
        if validity is Validity.EXPIRED and key.expires is not None:
            message = f"{what} be used until {_format_time(key.expires)} only"
            hint = "Rotate the key, or change its attribute `exp`."
        elif validity is Validity.NOT_YET and key.not_before is not None:
            message = f"{what} not be used before {_format_time(key.not_before)}"
            hint = "Wait, or change the key's attribute `nbf`."
        self._keyring.note_failure(
            key.alias,
            validity.value,
            message=message,
            hint=hint,
            needs_attention=True,
        )
        self._counters.count_release(key.alias, names.RESULT_DENIED, validity.value)
        log(
            Event.ATTENTION,
            f"key {key.alias}: {message}",
            key=key.alias,
            version=key.version,
            code=validity.value,
        )

    def state_changed(self, alias: str, record: KeyRecord) -> None:
        """Report a key's new state; wipe the key if it is no longer held."""
        if record.state is KeyState.CURRENT:
            return  # `hold` has reported it
        if record.state is KeyState.WAITING:  # a dropped key was requested again
            self._keyring.mark(alias, record.state)
            return
        # The administrator's request to drop a key is in the journal already.
        if record.state is not KeyState.DROPPED:
            self._log_state(alias, record)
        self._keyring.mark(alias, record.state)
        self.show_status()

    def _log_state(self, alias: str, record: KeyRecord) -> None:
        entry = self._keyring.get(alias)
        was_held = entry is not None and entry.key is not None
        if record.is_held:
            event, what = Event.KEY_STALE, "is stale: its refresh is overdue"
        else:
            event = Event.KEY_DROPPED
            what = f"is {record.state}" + (" and wiped" if was_held else "")
        log(
            event,
            f"key {alias} {what}",
            key=alias,
            state=record.state,
            code=(entry.failure_code if entry else "") or None,
        )

    def key_failed(self, alias: str, error: AgentError, following: NextAttempt) -> None:
        """Report that a key was not released, and its next attempt."""
        self._note_failure(alias, error)
        self._counters.count_release(alias, _result(error), error.code)
        self._log_failure(
            Event.KEY_FAILED, f"key {alias}: ", error, {alias: following}, key=alias
        )
        self.show_status()

    def job_failed(
        self, following: Mapping[str, NextAttempt], error: AgentError
    ) -> None:
        """Report that a job failed as a whole, and the next attempt of each key."""
        for alias in following:
            self._note_failure(alias, error)
        self._counters.count_attestation(_result(error), error.code)
        self._log_failure(Event.JOB_FAILED, "", error, following)
        self.show_status()

    def _log_failure(
        self,
        event: Event,
        prefix: str,
        error: AgentError,
        following: Mapping[str, NextAttempt],
        *,
        key: str | None = None,
    ) -> None:
        seconds = min((one.seconds for one in following.values()), default=0.0)
        warning = self._warn_of_wiping(following)
        _log_failure(event, prefix, error, seconds, key, warning=warning)

    def _warn_of_wiping(self, following: Mapping[str, NextAttempt]) -> str:
        """Return a sentence about the held keys that a repeated denial wipes."""
        times = {
            alias: attempt.wiped_in
            for alias, attempt in following.items()
            if attempt.wiped_in < math.inf
        }
        if not times:
            return ""
        moment = _format_time(self._clock.now() + min(times.values()))
        return (
            f" If the denial is repeated at {moment} or later, the agent wipes the held"
            f" key {', '.join(times)}."
        )

    def attempt_ended(self, alias: str) -> None:
        """Count an attempt that began after the last request to refresh the key."""
        self._keyring.note_attempt(alias)

    def ak_certificate(self, certificate: AkCertificate) -> None:
        """Report the end of the AK certificate."""
        self._counters.ak_certificate_expires_at = certificate.expires_at

    def ak_restored(self) -> None:
        """Report that the AK certificate was restored after an interrupted renewal."""
        log(
            Event.AK_RESTORED,
            "the AK certificate was lost by a renewal that was interrupted, and is"
            " restored from its copy",
        )

    def ak_renewed(self) -> None:
        """Report that there is a new AK certificate."""
        self._counters.count_ak_renewal(names.RESULT_SUCCESS)
        expires_at = self._counters.ak_certificate_expires_at
        until = (
            "" if expires_at is None else f": it holds until {_format_time(expires_at)}"
        )
        log(Event.AK_RENEWED, f"the AK certificate is renewed{until}")

    def ak_renewal_failed(self, error: AgentError, seconds: float) -> None:
        """Report that the renewal failed, and the wait until the next one."""
        self._counters.count_ak_renewal(_result(error), error.code)
        prefix = "the AK certificate could not be renewed: "
        _log_failure(Event.AK_RENEWAL_FAILED, prefix, error, seconds, None)

    def show_status(self) -> None:
        """Update the line that `systemctl status` shows."""
        entries = list(self._keyring)
        held = sum(entry.key is not None for entry in entries)
        codes = sorted({entry.failure_code for entry in entries} - {""})
        trouble = f"; {', '.join(codes)}" if codes else ""
        self._notifier.status(f"{held} of {len(entries)} keys held{trouble}")

    def _note_failure(self, alias: str, error: AgentError) -> None:
        self._keyring.note_failure(
            alias,
            error.code,
            message=error.message,
            hint=error.hint,
            needs_attention=error.disposition in NEEDS_ATTENTION,
        )

    def _report_memory(self, arena: Arena) -> None:
        if not self._counters.memory_kind and not arena.is_secret:
            log(
                Event.MEMORY_FALLBACK,
                f"keys are in locked memory, which root can read: {explain_fallback()}",
            )
        self._counters.memory_kind = arena.kind


def _format_time(seconds: float) -> str:
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
