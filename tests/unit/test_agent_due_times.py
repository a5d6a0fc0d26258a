"""When a key is requested next: backoff, refresh, batches and rate limit."""

from __future__ import annotations

import math
from typing import Any

import pytest
from support.agent import BOOTTIME, NOW, released_key

from skragent.agent import due_times, key_records
from skragent.agent.denial_confirmation import RepeatedDenial
from skragent.agent.due_times import (
    RELEASE_LIMIT,
    RELEASE_LIMIT_SECONDS,
    RetryState,
)
from skragent.agent.key_records import KeyRecord
from skragent.attestation.token import MAX_LIFETIME
from skragent.errors import AgentError, Disposition, ReleaserError
from skragent.job import KeyRequest

CRASH = ReleaserError("x", code="releaser.crashed")
FAULT = AgentError("x", code="transport.timeout", disposition=Disposition.RETRY)


def due(at: float, **changes: Any) -> KeyRecord:  # noqa: ANN401 - as RetryState
    return KeyRecord(retry=RetryState(due_at=at, **changes))


# Backoff.


def window(disposition: Disposition, failures: int, **counts: Any) -> float:  # noqa: ANN401 - as RetryState
    error = AgentError("x", code="x", disposition=disposition)
    state = RetryState(failures=failures, **counts)
    return due_times.longest_backoff_seconds(error, state)


def denial_window(code: str, **times: int) -> float:
    """The window of a denial after denials with these codes (`_` for a dot)."""
    denials = {
        denied.replace("_", "."): RepeatedDenial(first_at=0.0, times=count)
        for denied, count in times.items()
    }
    error = AgentError("x", code=code)
    state = RetryState(failures=9, denials=denials)
    return due_times.longest_backoff_seconds(error, state)


@pytest.mark.parametrize("disposition", [Disposition.RETRY, Disposition.REATTEST])
def test_a_transient_failure_doubles_the_window(disposition: Disposition) -> None:
    assert [window(disposition, n) for n in (1, 2, 3)] == [1, 2, 4]


def test_the_window_of_transient_failures_ends_at_a_minute() -> None:
    assert window(Disposition.RETRY, 5000) == 60


def test_a_first_denial_is_repeated_within_seconds() -> None:
    first = denial_window("release.denied.policy", release_denied_policy=1)
    assert first == due_times.CONFIRM_SECONDS


def test_a_first_clear_denial_does_not_wait_for_unclear_ones_before_it() -> None:
    first = denial_window(
        "release.denied.policy", token_refused=5, release_denied_policy=1
    )
    assert first == due_times.CONFIRM_SECONDS


def test_a_clear_denial_repeats_another_one() -> None:
    second = denial_window(
        "release.denied.policy", release_denied_disabled=1, release_denied_policy=1
    )
    assert second == 60


def test_the_window_of_a_confirmed_denial_is_long() -> None:
    windows = [
        denial_window("release.denied.policy", release_denied_policy=times)
        for times in (2, 3, 99)
    ]
    assert windows == [60, 120, 900]


@pytest.mark.parametrize("slow", [Disposition.RETRY_SLOWLY, Disposition.FATAL])
def test_a_fault_that_a_person_must_fix_is_retried_soon_once_and_then_slowly(
    slow: Disposition,
) -> None:
    windows = [window(slow, 30, slow_failures=n) for n in (1, 2, 3, 99)]
    assert windows == [due_times.CONFIRM_SECONDS, 60, 120, 900]


def test_a_denial_is_repeated_when_a_repetition_confirms_it() -> None:
    error = AgentError("x", code="token.refused")
    state = RetryState(failures=5, denials={error.code: RepeatedDenial(0.0, 5)})
    wait = due_times.backoff_seconds(error, state, jitter=1.0, confirms_in=20.0)
    assert wait == 20 + due_times.CONFIRM_SECONDS


def backoff(error: AgentError, failures: int, jitter: float) -> float:
    state = RetryState(failures=failures)
    return due_times.backoff_seconds(error, state, jitter=jitter)


def test_retry_after_replaces_the_window() -> None:
    error = AgentError("x", disposition=Disposition.RETRY, retry_after=70)
    assert backoff(error, 1, 0.0) == 70


@pytest.mark.parametrize("seconds", [-5.0, 0.0, 0.9])
def test_a_retry_after_of_less_than_a_second_is_ignored(seconds: float) -> None:
    error = AgentError("x", disposition=Disposition.RETRY, retry_after=seconds)
    assert backoff(error, 4, 0.5) == 4


def test_jitter_only_adds_to_retry_after() -> None:
    error = AgentError("x", disposition=Disposition.RETRY, retry_after=70)
    assert backoff(error, 1, 0.9) > 70


def test_a_retry_after_of_a_day_is_capped() -> None:
    error = AgentError("x", disposition=Disposition.RETRY, retry_after=86400)
    assert backoff(error, 1, 1.0) == due_times.MAX_RETRY_AFTER_SECONDS


def throttled(
    throttles: int, jitter: float = 0.5, retry_after: float | None = None
) -> float:
    error = AgentError(
        "x",
        code="transport.throttled",
        disposition=Disposition.RETRY,
        retry_after=retry_after,
    )
    state = RetryState(failures=500, throttles=throttles)
    return due_times.backoff_seconds(error, state, jitter=jitter)


def test_only_a_vaults_429_has_the_window_of_throttled_keys() -> None:
    error = AgentError("x", code="transport.throttled", disposition=Disposition.RETRY)
    state = RetryState(failures=1, throttles=1)
    assert due_times.backoff_seconds(error, state, jitter=1.0, is_vault=False) == 1


def test_a_throttled_key_first_waits_for_the_period_of_the_limit() -> None:
    assert throttled(1) == pytest.approx(10)


def test_a_throttled_key_waits_a_tenth_of_the_time_that_it_has_waited() -> None:
    before = sum(throttled(n) for n in range(1, 60))
    assert throttled(60) == pytest.approx(before / 10, rel=0.02)


def test_jitter_changes_the_wait_of_a_throttled_key_by_less_than_a_third() -> None:
    assert [throttled(1, jitter) for jitter in (0, 1)] == pytest.approx([7, 13])


def test_the_wait_of_a_throttled_key_is_capped() -> None:
    assert throttled(10**6) == 6 * 3600


def test_the_failures_of_an_outage_do_not_lengthen_the_first_wait_after_a_429() -> None:
    assert throttled(1) < window(Disposition.RETRY, 500)


def test_a_retry_after_longer_than_the_window_applies_after_a_429() -> None:
    assert throttled(1, retry_after=70, jitter=0) == 70


def test_a_retry_after_shorter_than_the_window_does_not_apply_after_a_429() -> None:
    assert throttled(40, retry_after=1) == throttled(40)


# The retry state.


def test_a_job_backoff_delays_a_key_that_is_due() -> None:
    state = due_times.back_off_job(RetryState(due_at=5), 9)
    assert state.retry_at == 9
    assert due_times.end_job_backoff(state).retry_at == 5


def test_a_job_backoff_never_shortens_another_one() -> None:
    state = due_times.back_off_job(RetryState(), 9)
    assert due_times.back_off_job(state, 5).retry_at == 9


def test_a_key_is_brought_forward_to_the_end_of_its_retry_after_only() -> None:
    state = due_times.plan_attempt(RetryState(), 70, is_retry_after=True)
    assert due_times.bring_forward(state, 5).retry_at == 70


def test_a_refresh_ends_every_wait() -> None:
    state = due_times.plan_attempt(RetryState(), 70, is_retry_after=True)
    state = due_times.back_off_job(state, 90)
    assert due_times.request_now(state, 5).retry_at == 5


def test_a_success_clears_the_failures_and_keeps_the_planned_attempt() -> None:
    state = due_times.count_failure(RetryState(due_at=5), FAULT, BOOTTIME)
    assert due_times.clear_failures(state) == RetryState(due_at=5)


# Refresh.


def test_a_key_is_refreshed_at_four_fifths_of_the_tokens_lifetime() -> None:
    assert due_times.refresh_after_seconds(28800) == 0.8 * 28800


def test_a_token_without_a_lifetime_does_not_cause_a_tight_loop() -> None:
    life = due_times.token_life_seconds(NOW, NOW - 1)
    assert life == due_times.MIN_TOKEN_LIFE_SECONDS


def test_a_token_life_is_at_most_the_limit_of_the_releaser() -> None:
    life = due_times.token_life_seconds(NOW, NOW + 365 * 86400)
    assert life == MAX_LIFETIME.total_seconds()


# Batches.


def test_the_first_job_is_for_every_key() -> None:
    records = {"a": KeyRecord(), "b": KeyRecord()}
    assert due_times.due_keys(records, BOOTTIME) == ("a", "b")


def test_a_job_is_only_for_the_keys_that_are_due() -> None:
    records = {"a": due(BOOTTIME), "b": due(BOOTTIME + 1)}
    assert due_times.due_keys(records, BOOTTIME) == ("a",)


def test_the_key_that_is_due_the_longest_comes_first() -> None:
    records = {"a": due(BOOTTIME), "b": due(BOOTTIME - 1)}
    assert due_times.due_keys(records, BOOTTIME) == ("b", "a")


def test_keys_whose_job_crashed_come_last() -> None:
    records = {"a": due(BOOTTIME - 1, batch_limit=1), "b": KeyRecord()}
    assert due_times.due_keys(records, BOOTTIME) == ("b", "a")


def crashed(batch_size: int) -> KeyRecord:
    return key_records.record_crash(
        KeyRecord(), CRASH, batch_size=batch_size, boottime=BOOTTIME
    )


def test_the_next_batch_of_keys_whose_job_crashed_is_half_as_large() -> None:
    records = dict.fromkeys("abcd", crashed(4))
    assert due_times.choose_batch("abcd", records) == ("a", "b")


def test_a_released_key_may_be_in_any_batch_again() -> None:
    record = key_records.record_release(
        crashed(2), released_key(), began_at=BOOTTIME, fresh_seconds=100.0
    )
    assert due_times.choose_batch("ab", {"a": record, "b": KeyRecord()}) == ("a", "b")


def test_a_key_is_due_when_its_vaults_limit_permits_a_release() -> None:
    assert due_times.next_attempt({"a": due(5), "b": due(7)}, {"a": 9}) == 7


def test_the_next_job_is_due_when_the_first_key_is() -> None:
    assert due_times.next_attempt({"a": due(7), "b": due(5)}) == 5


def test_without_keys_no_job_is_due() -> None:
    assert due_times.next_attempt({}) == math.inf


# The release rate limit.

VAULT = "https://v.vault.azure.net"
OTHER = "https://other.vault.azure.net"


def keys(count: int, vault: str = VAULT) -> dict[str, KeyRequest]:
    names = [f"{vault[8]}{number}" for number in range(count)]
    return {name: KeyRequest(alias=name, vault=vault, name=name) for name in names}


def test_a_job_requests_ten_keys_of_a_vault() -> None:
    found = due_times.releasable_keys(keys(11), keys(11), boottime=BOOTTIME)
    assert found == tuple(keys(10))


def test_each_vault_has_its_own_limit() -> None:
    both = keys(10) | keys(10, OTHER)
    assert len(due_times.releasable_keys(both, both, boottime=BOOTTIME)) == 20


def test_a_release_counts_until_ten_seconds_after_the_end_of_its_job() -> None:
    recent = due_times.count_releases((), keys(10).values(), ended_at=BOOTTIME)
    late = BOOTTIME + RELEASE_LIMIT_SECONDS
    early = due_times.releasable_keys(keys(1), keys(1), recent, boottime=late - 0.1)
    assert early == ()
    found = due_times.releasable_keys(keys(1), keys(1), recent, boottime=late)
    assert found == ("v0",)


def test_a_job_requests_as_many_keys_as_the_limit_still_permits() -> None:
    recent = due_times.count_releases((), keys(7).values(), ended_at=BOOTTIME)
    found = due_times.releasable_keys(keys(10), keys(10), recent, boottime=BOOTTIME)
    assert len(found) == RELEASE_LIMIT - 7


def test_the_limit_permits_a_release_when_the_first_one_no_longer_counts() -> None:
    recent = due_times.count_releases((), keys(5).values(), ended_at=BOOTTIME)
    recent = due_times.count_releases(recent, keys(5).values(), ended_at=BOOTTIME + 4)
    both = keys(1) | keys(1, OTHER)
    times = due_times.next_release_times(both, recent, BOOTTIME + 5)
    assert times == {"v0": BOOTTIME + RELEASE_LIMIT_SECONDS}


def test_a_key_does_not_wait_while_the_limit_permits_a_release() -> None:
    recent = due_times.count_releases((), keys(9).values(), ended_at=BOOTTIME)
    assert due_times.next_release_times(keys(1), recent, BOOTTIME) == {}


def test_releases_that_no_longer_count_are_removed() -> None:
    recent = due_times.count_releases((), keys(9).values(), ended_at=BOOTTIME)
    recent = due_times.count_releases(recent, keys(1).values(), ended_at=BOOTTIME + 60)
    assert [releases.count for releases in recent] == [1]
