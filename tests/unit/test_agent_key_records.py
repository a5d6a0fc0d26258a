from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from support.agent import BOOTTIME, NOW, released_key

from skragent.agent import key_records
from skragent.agent.due_times import RetryState
from skragent.agent.key_records import KeyRecord, Validity
from skragent.errors import AgentError, Disposition
from skragent.job import KeyRequest
from skragent.keyring import KeyState, PreservedRecord

HELD = key_records.record_release(
    KeyRecord(), released_key(), began_at=BOOTTIME, fresh_seconds=100.0
)


def test_a_released_key_is_current() -> None:
    assert HELD.state is KeyState.CURRENT


def test_a_key_is_stale_when_its_tokens_life_is_over() -> None:
    record = key_records.apply_time(HELD, now=NOW, boottime=BOOTTIME + 100)
    assert record.state is KeyState.STALE
    assert record.is_held


def test_a_key_is_not_stale_before_that() -> None:
    assert key_records.apply_time(HELD, now=NOW, boottime=BOOTTIME + 99) == HELD


def test_a_stale_key_is_dropped_after_max_stale() -> None:
    late = BOOTTIME + 100 + key_records.KeyLifetimePolicy().max_stale_seconds
    record = key_records.apply_time(HELD, now=NOW, boottime=late)
    assert record.state is KeyState.EXPIRED


def test_a_stale_key_is_kept_until_then() -> None:
    late = BOOTTIME + 99 + key_records.KeyLifetimePolicy().max_stale_seconds
    record = key_records.apply_time(HELD, now=NOW, boottime=late)
    assert record.state is KeyState.STALE


def test_a_key_past_its_own_exp_is_dropped_and_requested_at_once() -> None:
    held = key_records.record_release(
        KeyRecord(),
        released_key(expires=NOW + 10),
        began_at=BOOTTIME,
        fresh_seconds=100,
    )
    held = key_records.plan(held, RetryState(due_at=BOOTTIME + 80))
    record = key_records.apply_time(held, now=NOW + 10, boottime=BOOTTIME + 10)
    assert record.state is KeyState.EXPIRED
    assert record.retry.due_at == BOOTTIME + 10


def test_a_wall_clock_ten_years_ahead_does_not_make_a_key_stale() -> None:
    assert key_records.apply_time(HELD, now=NOW + 315360000, boottime=BOOTTIME) == HELD


FAULT = AgentError("x", code="transport.timeout", disposition=Disposition.RETRY)
CLEAR = AgentError("x", code="release.denied.policy")
UNCLEAR = AgentError("x", code="release.denied.firewall")


def after(*failures: tuple[AgentError, float], record: KeyRecord = HELD) -> KeyRecord:
    """A held key's record after failures, each at its second."""
    for error, seconds in failures:
        record = key_records.record_failure(record, error, BOOTTIME + seconds)
    return record


def test_a_transient_failure_keeps_what_is_held() -> None:
    assert after((FAULT, 0)).is_held


@pytest.mark.parametrize(
    "disposition", [d for d in Disposition if d is not Disposition.DENIED]
)
def test_no_fault_ends_a_held_key_however_often(disposition: Disposition) -> None:
    fault = AgentError("x", code="x", disposition=disposition)
    assert after(*((fault, 1000.0 * n) for n in range(20))).is_held


def test_one_denial_keeps_what_is_held() -> None:
    assert after((CLEAR, 0)).is_held


def test_a_second_denial_in_clear_words_ends_what_is_held() -> None:
    assert after((CLEAR, 0), (CLEAR, 1)).state is KeyState.DENIED


def test_a_fault_between_two_denials_takes_nothing_back() -> None:
    record = after((CLEAR, 0), (FAULT, 1), (CLEAR, 2))
    assert record.state is KeyState.DENIED


def test_an_unclear_denial_counts_if_it_is_repeated_after_five_minutes() -> None:
    often = [(UNCLEAR, float(n)) for n in range(299)]
    assert after(*often).is_held
    assert after(*often, (UNCLEAR, 300)).state is KeyState.DENIED


def test_an_unclear_denial_does_not_confirm_a_clear_one() -> None:
    assert after((CLEAR, 0), (UNCLEAR, 1)).is_held
    assert after((UNCLEAR, 0), (CLEAR, 1)).is_held


def test_only_the_same_unclear_denial_repeats_one() -> None:
    refusal = AgentError("x", code="token.refused")
    assert after((UNCLEAR, 0), (refusal, 400)).is_held
    assert after((CLEAR, 0), (UNCLEAR, 400)).is_held
    record = after((UNCLEAR, 0), (refusal, 10), (refusal, 310))
    assert record.state is KeyState.DENIED


def test_a_token_takes_back_the_providers_refusal_and_not_the_vaults() -> None:
    refusal = AgentError("x", code="token.refused")
    record = key_records.record_attestation(after((refusal, 0), (UNCLEAR, 0)))
    assert after((refusal, 400), record=record).is_held
    assert after((UNCLEAR, 400), record=record).state is KeyState.DENIED


def test_a_denial_of_one_version_confirms_none_of_another() -> None:
    old = KeyRequest(alias="a", vault="https://v.vault.azure.net", name="a")
    new = msgspec.structs.replace(old, version="0" * 32)
    record = key_records.reconfigure(
        after((CLEAR, 0)), old, new, policy=HELD.policy, boottime=BOOTTIME
    )
    assert after((CLEAR, 1), record=record).is_held


def test_denials_are_counted_from_the_last_release() -> None:
    record = key_records.record_release(
        after((UNCLEAR, 0)), released_key(), began_at=BOOTTIME + 200, fresh_seconds=100
    )
    assert after((UNCLEAR, 300), record=record).is_held


def test_a_restart_serves_the_version_before_for_no_longer_than_it_was_to_be() -> None:
    old, new = (
        PreservedRecord(
            vault="https://v.vault.azure.net",
            name="a",
            key=released_key(version=digit * 32),
            released_at=NOW,
            began_at=BOOTTIME,
            stale_at=BOOTTIME + 100,
            overlap_until=until,
        )
        for digit, until in (("1", None), ("2", BOOTTIME + 5))
    )
    policy = key_records.KeyLifetimePolicy(overlap_seconds=7.0)
    assert key_records.restore_record(policy, new, old).overlap_until == BOOTTIME + 5
    assert not key_records.restore_record(policy, old, new).has_previous


def test_a_key_that_is_kept_when_denied_stays_held() -> None:
    record = key_records.record_release(
        KeyRecord(policy=key_records.KeyLifetimePolicy(is_kept_when_denied=True)),
        released_key(),
        began_at=BOOTTIME,
        fresh_seconds=100,
    )
    assert after((CLEAR, 0), (CLEAR, 1), (UNCLEAR, 400), record=record).is_held


def test_a_repetition_is_awaited_only_where_it_would_end_a_held_key() -> None:
    first = after((UNCLEAR, 0))
    seconds = key_records.seconds_until_confirmable
    assert seconds(first, UNCLEAR, BOOTTIME + 100) == 200
    assert seconds(first, CLEAR, BOOTTIME + 100) == math.inf
    assert seconds(KeyRecord(), UNCLEAR, BOOTTIME) == math.inf


def test_the_time_until_a_held_key_can_be_wiped_follows_its_denials() -> None:
    seconds = key_records.seconds_until_wiped
    assert seconds(after((FAULT, 0)), BOOTTIME, 7) == math.inf
    assert seconds(after((CLEAR, 0)), BOOTTIME, 7) == 7
    assert seconds(after((UNCLEAR, 0)), BOOTTIME + 100, 7) == 200
    assert seconds(after((UNCLEAR, 0), (FAULT, 301)), BOOTTIME + 301, 7) == 7
    assert seconds(after((UNCLEAR, 0), record=KeyRecord()), BOOTTIME, 7) == math.inf


def test_a_key_that_is_kept_is_never_about_to_be_wiped() -> None:
    policy = key_records.KeyLifetimePolicy(is_kept_when_denied=True)
    record = key_records.record_release(
        KeyRecord(policy=policy), released_key(), began_at=BOOTTIME, fresh_seconds=100
    )
    kept = after((UNCLEAR, 0), (CLEAR, 1), record=record)
    assert key_records.seconds_until_wiped(kept, BOOTTIME + 2, 7) == math.inf


NEWER = "f" * 32


@pytest.mark.parametrize(
    "attributes", [{"expires": NOW}, {"not_before": NOW + 1}], ids=["expired", "early"]
)
def test_a_version_that_is_not_valid_never_displaces_another_that_is_held(
    attributes: dict[str, Any],
) -> None:
    newer = released_key(version=NEWER, **attributes)
    record = key_records.record_invalid_version(
        HELD, newer, key_records.check_validity(newer, NOW)
    )
    assert record.is_held
    assert record.version == HELD.version


def test_the_held_version_ends_with_its_own_exp() -> None:
    key = released_key(expires=NOW)
    record = key_records.record_invalid_version(HELD, key, Validity.EXPIRED)
    assert record.state is KeyState.EXPIRED


def test_a_disabled_key_is_not_admitted() -> None:
    assert (
        key_records.check_validity(released_key(enabled=False), NOW)
        is Validity.DISABLED
    )


def test_a_key_at_its_exp_is_not_admitted() -> None:
    assert (
        key_records.check_validity(released_key(expires=NOW), NOW) is Validity.EXPIRED
    )


def test_a_key_before_its_nbf_is_not_admitted_yet() -> None:
    key = released_key(not_before=NOW + 1)
    assert key_records.check_validity(key, NOW) is Validity.NOT_YET


def test_a_key_between_nbf_and_exp_is_admitted() -> None:
    key = released_key(not_before=NOW, expires=NOW + 1)
    assert key_records.check_validity(key, NOW) is Validity.VALID


def test_a_newer_version_that_is_not_valid_yet_leaves_the_older_one() -> None:
    record = key_records.record_invalid_version(HELD, released_key(), Validity.NOT_YET)
    assert record.state is KeyState.CURRENT


def test_a_key_that_came_expired_replaces_what_was_held_by_nothing() -> None:
    record = key_records.record_invalid_version(HELD, released_key(), Validity.EXPIRED)
    assert record.state is KeyState.EXPIRED


def test_a_current_key_changes_next_when_it_becomes_stale() -> None:
    left = key_records.seconds_until_change(HELD, now=NOW, boottime=BOOTTIME + 40)
    assert left == 60


def test_a_key_that_is_not_held_does_not_change_by_itself() -> None:
    left = key_records.seconds_until_change(KeyRecord(), now=NOW, boottime=BOOTTIME)
    assert left == math.inf
