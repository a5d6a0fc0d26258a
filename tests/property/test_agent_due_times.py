from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from support.agent import BOOTTIME, released_key

from skragent.agent import due_times, key_records
from skragent.agent.denial_confirmation import RepeatedDenial
from skragent.agent.due_times import RecentReleases, RetryState
from skragent.agent.key_records import KeyRecord
from skragent.denials import DENIALS
from skragent.errors import AgentError, Disposition
from skragent.job import KeyRequest

times = st.floats(0, 4e9)
spreads = st.floats(-1, 1)
jitters = st.floats(0, 1)
dispositions = st.sampled_from(list(Disposition))


def error_of(disposition: Disposition, retry_after: float | None = None) -> AgentError:
    """An error with this disposition, which a denial has by its code."""
    if disposition is Disposition.DENIED:
        code = "release.denied.policy"
        return AgentError("x", code=code, retry_after=retry_after)
    return AgentError("x", disposition=disposition, retry_after=retry_after)


@given(issued=times, expires=times, spread=spreads, jitter=jitters)
@settings(max_examples=100)
def test_a_refresh_is_always_before_the_end_of_the_tokens_lifetime(
    issued: float, expires: float, spread: float, jitter: float
) -> None:
    life = due_times.token_life_seconds(issued, expires)
    after = due_times.refresh_after_seconds(life, spread=spread, jitter=jitter)
    assert 0 < after < life


@given(due=times, now=times, later=st.floats(0, 1e6))
@settings(max_examples=100)
def test_a_wait_is_never_longer_at_a_later_time(
    due: float, now: float, later: float
) -> None:
    records = {"a": KeyRecord(retry=RetryState(due_at=due))}
    wait = due_times.next_attempt(records) - now
    assert due_times.next_attempt(records) - (now + later) <= wait
    if due_times.due_keys(records, now):
        assert due_times.due_keys(records, now + later)


@given(began=times, now=times, boot=times, later=st.floats(0, 1e6))
@settings(max_examples=100)
def test_the_next_change_of_a_key_is_never_farther_at_a_later_time(
    began: float, now: float, boot: float, later: float
) -> None:
    record = key_records.record_release(
        KeyRecord(), released_key(), began_at=began, fresh_seconds=60
    )
    first = key_records.seconds_until_change(record, now=now, boottime=boot)
    second = key_records.seconds_until_change(record, now=now, boottime=boot + later)
    assert 0 <= second <= first


@given(began=times, boot=times)
@settings(max_examples=100)
def test_a_key_changes_when_its_deadline_has_passed(began: float, boot: float) -> None:
    record = key_records.record_release(
        KeyRecord(), released_key(), began_at=began, fresh_seconds=60
    )
    left = key_records.seconds_until_change(record, now=0, boottime=boot)
    moment = boot + left + 0.001
    assert (
        key_records.apply_time(record, now=0, boottime=moment).state is not record.state
    )


@given(
    disposition=dispositions,
    failures=st.integers(1, 10**6),
    denials=st.integers(0, 10**6),
    retry_after=st.none() | st.floats(-1e9, 1e9),
    jitter=jitters,
)
@settings(max_examples=100)
def test_every_wait_is_bounded(
    disposition: Disposition,
    failures: int,
    denials: int,
    retry_after: float | None,
    jitter: float,
) -> None:
    error = error_of(disposition, retry_after)
    repeated = (
        {error.code: RepeatedDenial(0.0, denials)} if error.code in DENIALS else {}
    )
    state = RetryState(failures=failures, slow_failures=failures, denials=repeated)
    assert 0 <= due_times.backoff_seconds(error, state, jitter=jitter) <= 900


@given(throttles=st.integers(1, 10**6), jitter=jitters)
@settings(max_examples=100)
def test_a_throttled_key_waits_for_seconds_and_less_than_a_tokens_lifetime(
    throttles: int, jitter: float
) -> None:
    error = AgentError("x", code="transport.throttled", disposition=Disposition.RETRY)
    state = RetryState(failures=throttles, throttles=throttles)
    wait = due_times.backoff_seconds(error, state, jitter=jitter)
    assert 5 < wait < 8 * 3600


@given(steps=st.lists(dispositions, max_size=8), boot=times, now=times)
@settings(max_examples=100)
def test_a_denied_key_is_not_held_until_it_is_released(
    steps: list[Disposition], boot: float, now: float
) -> None:
    record = key_records.record_release(
        KeyRecord(), released_key(), began_at=boot, fresh_seconds=60
    )
    for _ in range(2):
        record = key_records.record_failure(record, error_of(Disposition.DENIED), boot)
    for step in steps:
        record = key_records.record_failure(record, error_of(step), boot)
        record = key_records.apply_time(record, now=now, boottime=boot)
    assert not record.is_held


VAULTS = ("https://a.vault.azure.net", "https://b.vault.azure.net")

pauses = st.sampled_from([0.0, 0.5, 3.0, 9.9, 10.0]) | st.floats(0, 15)
vault_lists = st.lists(st.sampled_from(VAULTS), max_size=40)


def requests(vaults: list[str]) -> dict[str, KeyRequest]:
    return {
        str(n): KeyRequest(alias=str(n), vault=vault, name=str(n))
        for n, vault in enumerate(vaults)
    }


@given(jobs=st.lists(st.tuples(pauses, pauses, vault_lists), max_size=12))
def test_a_vault_gets_at_most_ten_requests_in_ten_seconds_at_any_time_of_a_job(
    jobs: list[tuple[float, float, list[str]]],
) -> None:
    boot, recent = BOOTTIME, tuple[RecentReleases, ...]()
    moments: dict[str, list[tuple[float, float]]] = {vault: [] for vault in VAULTS}
    for pause, takes, vaults in jobs:
        keys = requests(vaults)
        began, ended = boot + pause, boot + pause + takes
        chosen = due_times.releasable_keys(keys, keys, recent, boottime=began)
        for alias in chosen:
            moments[keys[alias].vault].append((began, ended))
        requested = [keys[alias] for alias in chosen]
        recent, boot = (
            due_times.count_releases(recent, requested, ended_at=ended),
            ended,
        )
    for spans in moments.values():
        # The window that begins with a release, the others anywhere in their jobs.
        for _, ended in spans:
            within = [b for b, e in spans if e >= ended and b < ended + 10]
            assert len(within) <= 10


@given(vaults=vault_lists, later=vault_lists, pause=pauses)
def test_the_limit_permits_a_release_at_the_time_that_it_states_and_not_before(
    vaults: list[str], later: list[str], pause: float
) -> None:
    first, keys = requests(vaults), requests(later)
    chosen = due_times.releasable_keys(first, first, boottime=BOOTTIME)
    recent = due_times.count_releases((), [first[a] for a in chosen], ended_at=BOOTTIME)
    boot = BOOTTIME + pause
    times_by_alias = due_times.next_release_times(keys, recent, boot)
    for alias in keys:
        now = due_times.releasable_keys([alias], keys, recent, boottime=boot)
        assert bool(now) == (alias not in times_by_alias)
    for alias, moment in times_by_alias.items():
        assert due_times.releasable_keys([alias], keys, recent, boottime=moment)
        assert moment > boot
