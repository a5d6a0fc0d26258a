from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from support.agent import BOOTTIME, released_key

from skragent.agent import due_times, key_records
from skragent.agent.due_times import Denied, Failures, Spent
from skragent.agent.key_records import KeyRecord
from skragent.denials import DENIALS
from skragent.errors import AgentError, Disposition
from skragent.job import KeyRequest

times = st.floats(0, 4e9)
jitters = st.floats(-1, 1)
chances = st.floats(0, 1)
dispositions = st.sampled_from(list(Disposition))


def error_of(disposition: Disposition, retry_after: float | None = None) -> AgentError:
    """An error with this disposition, which a denial has by its code."""
    if disposition is Disposition.DENIED:
        code = "release.denied.policy"
        return AgentError("x", code=code, retry_after=retry_after)
    return AgentError("x", disposition=disposition, retry_after=retry_after)


@given(issued=times, expires=times, jitter=jitters)
@settings(max_examples=100)
def test_a_refresh_is_always_before_the_end_of_the_tokens_life(
    issued: float, expires: float, jitter: float
) -> None:
    life = due_times.token_life_seconds(issued, expires)
    assert 0 < due_times.refresh_after_seconds(life, jitter) < life


@given(due=times, now=times, later=st.floats(0, 1e6))
@settings(max_examples=100)
def test_later_never_means_a_longer_wait_for_the_same_deadline(
    due: float, now: float, later: float
) -> None:
    lives = {"a": KeyRecord(due_at=due)}
    wait = due_times.next_attempt(lives) - now
    assert due_times.next_attempt(lives) - (now + later) <= wait
    if due_times.due_keys(lives, now):
        assert due_times.due_keys(lives, now + later)


@given(began=times, now=times, boot=times, later=st.floats(0, 1e6))
@settings(max_examples=100)
def test_a_keys_change_comes_no_later_when_asked_later(
    began: float, now: float, boot: float, later: float
) -> None:
    life = key_records.released(
        KeyRecord(), released_key(), began_at=began, fresh_seconds=60
    )
    first = key_records.seconds_until_change(life, now=now, boottime=boot)
    second = key_records.seconds_until_change(life, now=now, boottime=boot + later)
    assert 0 <= second <= first


@given(began=times, boot=times)
@settings(max_examples=100)
def test_a_key_does_change_when_its_time_has_come(began: float, boot: float) -> None:
    life = key_records.released(
        KeyRecord(), released_key(), began_at=began, fresh_seconds=60
    )
    left = key_records.seconds_until_change(life, now=0, boottime=boot)
    moment = boot + left + 0.001
    assert key_records.aged(life, now=0, boottime=moment).state is not life.state


@given(
    disposition=dispositions,
    failures=st.integers(1, 10**6),
    denials=st.integers(0, 10**6),
    asked=st.none() | st.floats(-1e9, 1e9),
    jitter=chances,
)
@settings(max_examples=100)
def test_every_wait_is_bounded(
    disposition: Disposition,
    failures: int,
    denials: int,
    asked: float | None,
    jitter: float,
) -> None:
    error = error_of(disposition, asked)
    repeated = {error.code: Denied(0.0, denials)} if error.code in DENIALS else {}
    counts = Failures(total=failures, slow=failures, denials=repeated)
    assert 0 <= due_times.wait_seconds(error, counts, jitter=jitter) <= 900


@given(throttles=st.integers(1, 10**6), jitter=chances)
@settings(max_examples=100)
def test_who_is_throttled_waits_seconds_at_least_and_less_than_a_tokens_life(
    throttles: int, jitter: float
) -> None:
    error = AgentError("x", code="transport.throttled", disposition=Disposition.RETRY)
    failures = Failures(total=throttles, throttles=throttles)
    wait = due_times.wait_seconds(error, failures, jitter=jitter)
    assert 5 < wait < 8 * 3600


@given(steps=st.lists(dispositions, max_size=8), boot=times, now=times)
@settings(max_examples=100)
def test_a_denied_key_is_never_held_whatever_follows_but_a_release(
    steps: list[Disposition], boot: float, now: float
) -> None:
    life = key_records.released(
        KeyRecord(), released_key(), began_at=boot, fresh_seconds=60
    )
    for _ in range(2):
        life = key_records.failed(life, error_of(Disposition.DENIED), boot)
    for step in steps:
        life = key_records.failed(life, error_of(step), boot)
        life = key_records.aged(life, now=now, boottime=boot)
    assert not life.is_held


VAULTS = ("https://a.vault.azure.net", "https://b.vault.azure.net")

pauses = st.sampled_from([0.0, 0.5, 3.0, 9.9, 10.0]) | st.floats(0, 15)
wishes = st.lists(st.sampled_from(VAULTS), max_size=40)


def requests(vaults: list[str]) -> dict[str, KeyRequest]:
    return {
        str(n): KeyRequest(alias=str(n), vault=vault, name=str(n))
        for n, vault in enumerate(vaults)
    }


@given(jobs=st.lists(st.tuples(pauses, pauses, wishes), max_size=12))
def test_no_vault_releases_more_than_ten_in_ten_seconds_wherever_in_their_jobs(
    jobs: list[tuple[float, float, list[str]]],
) -> None:
    boot, spent = BOOTTIME, tuple[Spent, ...]()
    moments: dict[str, list[tuple[float, float]]] = {vault: [] for vault in VAULTS}
    for pause, takes, vaults in jobs:
        keys = requests(vaults)
        began, ended = boot + pause, boot + pause + takes
        chosen = due_times.allowed_keys(keys, keys, spent, boottime=began)
        for alias in chosen:
            moments[keys[alias].vault].append((began, ended))
        asked = [keys[alias] for alias in chosen]
        spent, boot = due_times.spend(spent, asked, ended_at=ended), ended
    for spans in moments.values():
        # The window that begins with a release, the others anywhere in their jobs.
        for _, ended in spans:
            within = [b for b, e in spans if e >= ended and b < ended + 10]
            assert len(within) <= 10


@given(vaults=wishes, later=wishes, pause=pauses)
def test_a_vault_that_opens_releases_then_and_not_before(
    vaults: list[str], later: list[str], pause: float
) -> None:
    first, keys = requests(vaults), requests(later)
    chosen = due_times.allowed_keys(first, first, boottime=BOOTTIME)
    spent = due_times.spend((), [first[a] for a in chosen], ended_at=BOOTTIME)
    boot = BOOTTIME + pause
    opens = due_times.opening(keys, spent, boot)
    for alias in keys:
        now = due_times.allowed_keys([alias], keys, spent, boottime=boot)
        assert bool(now) == (alias not in opens)
    for alias, moment in opens.items():
        assert due_times.allowed_keys([alias], keys, spent, boottime=moment)
        assert moment > boot
