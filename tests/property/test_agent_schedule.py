from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from support.agent import released_key

from skragent.agent import backoff, lifecycle, schedule
from skragent.agent.failures import Denied, Failures
from skragent.agent.lifecycle import KeyRecord
from skragent.denials import DENIALS
from skragent.errors import AgentError, Disposition

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
    life = schedule.token_life_seconds(issued, expires)
    assert 0 < schedule.refresh_after_seconds(life, jitter) < life


@given(due=times, now=times, later=st.floats(0, 1e6))
@settings(max_examples=100)
def test_later_never_means_a_longer_wait_for_the_same_deadline(
    due: float, now: float, later: float
) -> None:
    lives = {"a": KeyRecord(due_at=due)}
    wait = schedule.next_attempt(lives) - now
    assert schedule.next_attempt(lives) - (now + later) <= wait
    if schedule.due_keys(lives, now):
        assert schedule.due_keys(lives, now + later)


@given(began=times, now=times, boot=times, later=st.floats(0, 1e6))
@settings(max_examples=100)
def test_a_keys_change_comes_no_later_when_asked_later(
    began: float, now: float, boot: float, later: float
) -> None:
    life = lifecycle.released(
        KeyRecord(), released_key(), began_at=began, fresh_seconds=60
    )
    first = lifecycle.seconds_until_change(life, now=now, boottime=boot)
    second = lifecycle.seconds_until_change(life, now=now, boottime=boot + later)
    assert 0 <= second <= first


@given(began=times, boot=times)
@settings(max_examples=100)
def test_a_key_does_change_when_its_time_has_come(began: float, boot: float) -> None:
    life = lifecycle.released(
        KeyRecord(), released_key(), began_at=began, fresh_seconds=60
    )
    left = lifecycle.seconds_until_change(life, now=0, boottime=boot)
    moment = boot + left + 0.001
    assert lifecycle.aged(life, now=0, boottime=moment).state is not life.state


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
    assert 0 <= backoff.wait_seconds(error, counts, jitter=jitter) <= 900


@given(throttles=st.integers(1, 10**6), jitter=chances)
@settings(max_examples=100)
def test_who_is_throttled_waits_seconds_at_least_and_less_than_a_tokens_life(
    throttles: int, jitter: float
) -> None:
    error = AgentError("x", code="transport.throttled", disposition=Disposition.RETRY)
    failures = Failures(total=throttles, throttles=throttles)
    wait = backoff.wait_seconds(error, failures, jitter=jitter)
    assert 5 < wait < 8 * 3600


@given(steps=st.lists(dispositions, max_size=8), boot=times, now=times)
@settings(max_examples=100)
def test_a_denied_key_is_never_held_whatever_follows_but_a_release(
    steps: list[Disposition], boot: float, now: float
) -> None:
    life = lifecycle.released(
        KeyRecord(), released_key(), began_at=boot, fresh_seconds=60
    )
    for _ in range(2):
        life = lifecycle.failed(life, error_of(Disposition.DENIED), boot)
    for step in steps:
        life = lifecycle.failed(life, error_of(step), boot)
        life = lifecycle.aged(life, now=now, boottime=boot)
    assert not life.is_held
