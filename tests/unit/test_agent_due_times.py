from __future__ import annotations

import pytest
from support.agent import BOOTTIME, run

from skragent.agent import due_times
from skragent.agent.due_times import RELEASES, WINDOW_SECONDS, Denied, Failures
from skragent.errors import AgentError, Disposition
from skragent.job import KeyRequest


def window(disposition: Disposition, total: int, **counts: int) -> float:
    error = AgentError("x", code="x", disposition=disposition)
    return due_times.window_seconds(error, Failures(total=total, **counts))


def denial_window(code: str, **times: int) -> float:
    """The window of a denial after so many of each code, `_` for a dot."""
    denials = {
        denied.replace("_", "."): Denied(first_at=0.0, times=count)
        for denied, count in times.items()
    }
    error = AgentError("x", code=code)
    return due_times.window_seconds(error, Failures(total=9, denials=denials))


@pytest.mark.parametrize("disposition", [Disposition.RETRY, Disposition.REATTEST])
def test_a_transient_failure_doubles_the_window(disposition: Disposition) -> None:
    assert [window(disposition, n) for n in (1, 2, 3)] == [1, 2, 4]


def test_the_window_of_transient_failures_ends_at_a_minute() -> None:
    assert window(Disposition.RETRY, 5000) == 60


def test_a_first_denial_is_asked_about_again_within_seconds() -> None:
    first = denial_window("release.denied.policy", release_denied_policy=1)
    assert first == due_times.CONFIRM_SECONDS


def test_a_first_clear_denial_does_not_wait_for_unclear_ones_before_it() -> None:
    first = denial_window(
        "release.denied.policy", token_refused=5, release_denied_policy=1
    )
    assert first == due_times.CONFIRM_SECONDS


def test_a_clear_denial_confirms_another_one() -> None:
    second = denial_window(
        "release.denied.policy", release_denied_disabled=1, release_denied_policy=1
    )
    assert second == 60


def test_a_confirmed_denial_waits_long() -> None:
    windows = [
        denial_window("release.denied.policy", release_denied_policy=times)
        for times in (2, 3, 99)
    ]
    assert windows == [60, 120, 900]


@pytest.mark.parametrize("slow", [Disposition.RETRY_SLOWLY, Disposition.FATAL])
def test_a_fault_that_a_person_must_mend_is_retried_soon_once_and_then_slowly(
    slow: Disposition,
) -> None:
    windows = [window(slow, 30, slow=n) for n in (1, 2, 3, 99)]
    assert windows == [due_times.CONFIRM_SECONDS, 60, 120, 900]


def test_a_denial_is_asked_about_again_when_its_repetition_counts() -> None:
    error = AgentError("x", code="token.refused")
    failures = Failures(total=5, denials={error.code: Denied(0.0, 5)})
    wait = due_times.wait_seconds(error, failures, jitter=1.0, confirms_in=20.0)
    assert wait == 20 + due_times.CONFIRM_SECONDS


def wait_after(error: AgentError, total: int, jitter: float) -> float:
    return due_times.wait_seconds(error, Failures(total=total), jitter=jitter)


def test_retry_after_wins_over_the_window() -> None:
    error = AgentError("x", disposition=Disposition.RETRY, retry_after=70)
    assert wait_after(error, 1, 0.0) == 70


@pytest.mark.parametrize("asked", [-5.0, 0.0, 0.9])
def test_a_retry_after_of_no_time_leaves_the_window_in_force(asked: float) -> None:
    error = AgentError("x", disposition=Disposition.RETRY, retry_after=asked)
    assert wait_after(error, 4, 0.5) == 4


def test_retry_after_is_never_undercut() -> None:
    error = AgentError("x", disposition=Disposition.RETRY, retry_after=70)
    assert wait_after(error, 1, 0.9) > 70


def test_retry_after_of_a_day_is_capped() -> None:
    error = AgentError("x", disposition=Disposition.RETRY, retry_after=86400)
    assert wait_after(error, 1, 1.0) == due_times.MAX_RETRY_AFTER_SECONDS


def line(throttles: int, jitter: float = 0.5, asked: float | None = None) -> float:
    error = AgentError(
        "x",
        code="transport.throttled",
        disposition=Disposition.RETRY,
        retry_after=asked,
    )
    failures = Failures(total=500, throttles=throttles)
    return due_times.wait_seconds(error, failures, jitter=jitter)


def test_only_a_vaults_429_is_a_line_to_wait_in() -> None:
    error = AgentError("x", code="transport.throttled", disposition=Disposition.RETRY)
    failures = Failures(total=1, throttles=1)
    assert due_times.wait_seconds(error, failures, jitter=1.0, is_vault=False) == 1


def test_a_throttled_key_first_waits_as_long_as_a_vault_counts() -> None:
    assert line(1) == pytest.approx(10)


def test_a_key_in_line_waits_about_a_tenth_of_the_time_that_it_has_waited() -> None:
    before = sum(line(n) for n in range(1, 60))
    assert line(60) == pytest.approx(before / 10, rel=0.02)


def test_chance_moves_a_wait_in_line_by_less_than_a_third() -> None:
    assert [line(1, jitter) for jitter in (0, 1)] == pytest.approx([7, 13])


def test_a_wait_in_line_ends() -> None:
    assert line(10**6) == 6 * 3600


def test_the_failures_of_an_outage_do_not_lengthen_the_first_wait_in_line() -> None:
    assert line(1) < window(Disposition.RETRY, 500)


def test_a_longer_retry_after_wins_over_the_line() -> None:
    assert line(1, asked=70, jitter=0) == 70


def test_a_shorter_retry_after_does_not_jump_the_line() -> None:
    assert line(40, asked=1) == line(40)


class Step:
    """A step that fails with each of `errors`, then succeeds."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.waits: list[float] = []

    async def __call__(self) -> str:
        if self.errors:
            raise self.errors.pop(0)
        return "done"

    async def run(self, *, stop_after: int = 99) -> str:
        async def sleep(seconds: float) -> None:
            self.waits.append(seconds)

        retrying = due_times.retrying(
            wait=lambda _error: float(len(self.waits) + 1),
            sleep=sleep,
            is_stopping=lambda: len(self.waits) >= stop_after,
            is_final=lambda error: error.disposition is Disposition.FATAL,
        )
        return await retrying(self)


def transient() -> AgentError:
    return AgentError("x", disposition=Disposition.RETRY)


def test_a_failing_step_is_repeated_until_it_succeeds() -> None:
    step = Step(transient(), transient())
    assert run(step.run()) == "done"
    assert step.waits == [1, 2]


def test_a_final_error_is_not_repeated() -> None:
    step = Step(
        AgentError("x", code="evidence.not_a_cvm", disposition=Disposition.FATAL)
    )
    with pytest.raises(AgentError) as caught:
        run(step.run())
    assert caught.value.code == "evidence.not_a_cvm"
    assert step.waits == []


def test_a_bug_is_not_repeated() -> None:
    with pytest.raises(ZeroDivisionError):
        run(Step(ZeroDivisionError()).run())


def test_shutdown_ends_the_repetition_with_the_error_itself() -> None:
    step = Step(*(transient() for _ in range(9)))
    with pytest.raises(AgentError):
        run(step.run(stop_after=3))
    assert len(step.waits) == 3


VAULT = "https://v.vault.azure.net"
OTHER = "https://other.vault.azure.net"


def keys(count: int, vault: str = VAULT) -> dict[str, KeyRequest]:
    names = [f"{vault[8]}{number}" for number in range(count)]
    return {name: KeyRequest(alias=name, vault=vault, name=name) for name in names}


def test_a_vault_is_asked_for_ten_keys_at_once() -> None:
    found = due_times.allowed_keys(keys(11), keys(11), boottime=BOOTTIME)
    assert found == tuple(keys(10))


def test_each_vault_has_its_own_ten() -> None:
    both = keys(10) | keys(10, OTHER)
    assert len(due_times.allowed_keys(both, both, boottime=BOOTTIME)) == 20


def test_what_a_job_asked_for_counts_until_ten_seconds_after_its_end() -> None:
    spent = due_times.spend((), keys(10).values(), ended_at=BOOTTIME)
    late = BOOTTIME + WINDOW_SECONDS
    early = due_times.allowed_keys(keys(1), keys(1), spent, boottime=late - 0.1)
    assert early == ()
    assert due_times.allowed_keys(keys(1), keys(1), spent, boottime=late) == ("v0",)


def test_what_is_left_is_for_others() -> None:
    spent = due_times.spend((), keys(7).values(), ended_at=BOOTTIME)
    found = due_times.allowed_keys(keys(10), keys(10), spent, boottime=BOOTTIME)
    assert len(found) == RELEASES - 7


def test_a_vault_opens_when_the_first_of_its_releases_counts_no_more() -> None:
    spent = due_times.spend((), keys(5).values(), ended_at=BOOTTIME)
    spent = due_times.spend(spent, keys(5).values(), ended_at=BOOTTIME + 4)
    both = keys(1) | keys(1, OTHER)
    opens = due_times.opening(both, spent, BOOTTIME + 5)
    assert opens == {"v0": BOOTTIME + WINDOW_SECONDS}


def test_a_vault_with_something_left_is_open() -> None:
    spent = due_times.spend((), keys(9).values(), ended_at=BOOTTIME)
    assert due_times.opening(keys(1), spent, BOOTTIME) == {}


def test_what_counts_no_more_is_forgotten() -> None:
    spent = due_times.spend((), keys(9).values(), ended_at=BOOTTIME)
    spent = due_times.spend(spent, keys(1).values(), ended_at=BOOTTIME + 60)
    assert [one.releases for one in spent] == [1]
