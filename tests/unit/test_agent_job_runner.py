"""The runner over real children that misbehave (support/agent_releaser.py)."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.agent import make_config, run, substitute, until
from support.deadlines import DEADLINE_SECONDS, SHORT_SECONDS
from typing_extensions import override

from skragent.agent import job_runner
from skragent.agent.clock import SystemClock
from skragent.agent.job_runner import MAX_STDERR_BYTES, Release, Runner
from skragent.agent.jobs import key_requests
from skragent.agent.releaser_process import Launcher
from skragent.errors import AgentError, ReleaserError
from skragent.observe import INTERNAL_ERRORS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

JOB_SECONDS = DEADLINE_SECONDS + 1  # differs from every other wait
CONFIG = make_config("disk", "signing")
ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "HTTPS_PROXY": "http://proxy:3128",
    "AZURE_CLIENT_SECRET": "s",
}


class Lines(list[tuple[str, bool]]):
    """What was logged of the child's stderr."""

    def __call__(self, line: str, succeeded: bool) -> None:  # noqa: FBT001 - the runner's
        self.append((line, succeeded))

    @property
    def text(self) -> str:
        return "\n".join(line for line, _ in self)


def make_runner(
    mode: str,
    *arguments: str,
    timeout: float = JOB_SECONDS,
    clock: SystemClock | None = None,
    lines: Lines | None = None,
    environment: Mapping[str, str] = ENVIRONMENT,
) -> Runner:
    clock = clock or SystemClock()
    launcher = Launcher(CONFIG, clock, environment, substitute(mode, *arguments))
    return Runner(
        launcher,
        clock,
        timeout_seconds=timeout,
        log_output=Lines() if lines is None else lines,
    )


class HurriedClock(SystemClock):
    """A job's time is over as soon as something has happened."""

    def __init__(self, has_happened: Callable[[], bool]) -> None:
        self._has_happened = has_happened

    @override
    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        if seconds != JOB_SECONDS:
            return await super().wait(event, seconds)
        await until(lambda: event.is_set() or self._has_happened())
        return event.is_set()


def run_job(
    runner: Runner, deliver: Callable[[Release], None] = lambda _part: None
) -> Release:
    return run(runner.run(list(key_requests(CONFIG).values()), deliver=deliver))


def code_of(runner: Runner) -> str:
    with pytest.raises(AgentError) as caught:
        run_job(runner)
    return caught.value.code


def is_gone(pid: int) -> bool:
    """Whether a process is dead, reaped or not."""
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
        )
    except FileNotFoundError:
        return True


def test_a_well_behaved_releaser_fills_the_arena() -> None:
    release = run_job(make_runner("release"))
    assert [key.alias for key in release.result.released] == ["disk", "signing"]
    form = release.result.released[1].forms["raw"]
    assert release.arena.view(form.offset, form.length) == b"k" * 32


def test_the_agent_keeps_no_descriptor_of_the_arena() -> None:
    assert run_job(make_runner("release")).arena.fd == -1


def test_a_job_that_failed_as_a_whole_is_a_result() -> None:
    release = run_job(make_runner("failure", "evidence.not_a_cvm", "fatal"))
    assert release.result.failure is not None
    assert release.result.failure.code == "evidence.not_a_cvm"


def test_a_releaser_that_hangs_is_killed_at_its_deadline() -> None:
    assert code_of(make_runner("hang", timeout=SHORT_SECONDS)) == "releaser.timeout"


@pytest.mark.parametrize(
    "mode", ["crash-early", "crash-late", "sigkill", "nothing-and-exit-1"]
)
def test_a_releaser_that_dies_is_named(mode: str) -> None:
    assert code_of(make_runner(mode)) == "releaser.crashed"


@pytest.mark.parametrize(
    "mode",
    [
        "garbage",
        "half",
        "wrong-protocol",
        "outside",
        "stranger",
        "flood-stdout",
        "flood-stderr",
    ],
)
def test_a_releaser_that_does_not_keep_the_contract_is_not_believed(mode: str) -> None:
    assert code_of(make_runner(mode)) == "releaser.garbage"


class Parts(list[Release]):
    """The parts that were delivered before the job's end."""

    def aliases(self) -> list[str]:
        return [key.alias for part in self for key in part.result.released]


def test_keys_are_delivered_before_the_job_ends() -> None:
    parts = Parts()
    rest = run_job(make_runner("parts"), parts.append)
    assert parts.aliases() == ["disk"]
    assert [key.alias for key in rest.result.released] == ["signing"]
    assert rest.token is not None


@pytest.mark.parametrize(
    ("mode", "code"),
    [
        ("parts-and-hang", "releaser.timeout"),
        ("parts-and-crash", "releaser.crashed"),
    ],
)
def test_what_was_delivered_before_a_releaser_failed_stays_delivered(
    mode: str, code: str
) -> None:
    parts = Parts()
    hurried = HurriedClock(lambda: bool(parts.aliases()))
    clock = hurried if code == "releaser.timeout" else None
    with pytest.raises(ReleaserError) as caught:
        run_job(make_runner(mode, clock=clock), parts.append)
    assert caught.value.code == code
    assert parts.aliases() == ["disk"]


def test_an_error_of_the_one_that_takes_parts_is_raised_where_the_job_is_awaited() -> (
    None
):
    def fail(_part: Release) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_job(make_runner("parts-and-hang"), fail)


def test_a_releaser_that_cannot_be_started_is_named() -> None:
    launcher = Launcher(CONFIG, SystemClock(), ENVIRONMENT, ("/nonexistent",))
    with pytest.raises(ReleaserError) as caught:
        launcher.launch(list(key_requests(CONFIG).values()))
    assert caught.value.code == "releaser.spawn"


def test_a_killed_releaser_ends_the_job(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    runner = make_runner("hang", str(pid_file))

    async def kill_it() -> None:
        job = asyncio.create_task(runner.run(list(key_requests(CONFIG).values())))
        await until(pid_file.exists)
        runner.stop()
        with pytest.raises(ReleaserError) as caught:
            await job
        assert caught.value.code == "releaser.crashed"

    run(kill_it())


async def begin(runner: Runner, path: Path) -> asyncio.Task[Release]:
    """Start a job, and wait until its releaser has written to a file."""
    job = asyncio.create_task(runner.run(list(key_requests(CONFIG).values())))
    await until(has_begun(path))
    return job


def has_begun(path: Path) -> Callable[[], bool]:
    return lambda: path.exists() and path.read_text() != ""


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A releaser that was told to end has all the time that it needs."""
    monkeypatch.setattr(job_runner, "TERMINATE_SECONDS", DEADLINE_SECONDS)


@pytest.mark.usefixtures("patient")
def test_a_releaser_that_is_writing_goes_on_when_it_is_stopped(tmp_path: Path) -> None:
    path = tmp_path / "written"
    runner = make_runner("write-on", str(path))

    async def stop_it() -> None:
        job = await begin(runner, path)
        runner.stop()
        with pytest.raises(ReleaserError):
            await job

    run(stop_it())
    assert path.read_text() == "done"


@pytest.mark.usefixtures("patient")
def test_a_releaser_that_is_writing_goes_on_at_its_deadline(tmp_path: Path) -> None:
    path = tmp_path / "written"
    runner = make_runner("write-on", str(path), clock=HurriedClock(has_begun(path)))

    async def let_it_be_late() -> None:
        job = await begin(runner, path)
        with pytest.raises(ReleaserError) as caught:
            await job
        assert caught.value.code == "releaser.timeout"

    run(let_it_be_late())
    assert path.read_text() == "done"


@pytest.mark.parametrize("is_stopped", [True, False])
def test_a_releaser_that_does_not_obey_sigterm_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_stopped: bool
) -> None:
    monkeypatch.setattr(job_runner, "TERMINATE_SECONDS", 0.1)
    path = tmp_path / "pid"
    clock = None if is_stopped else HurriedClock(has_begun(path))
    runner = make_runner("stay", str(path), clock=clock)

    async def end_it() -> None:
        job = await begin(runner, path)
        if is_stopped:
            runner.stop()
        with pytest.raises(ReleaserError):
            await job

    run(end_it())
    assert is_gone(int(path.read_text()))


def test_to_stop_without_a_releaser_does_nothing() -> None:
    make_runner("release").stop()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ""),
        ({"STATE_DIRECTORY": "/var/lib/skragent"}, "/var/lib/skragent"),
        ({"STATE_DIRECTORY": "/var/lib/skragent:/var/lib/b"}, "/var/lib/skragent"),
    ],
)
def test_the_job_has_the_units_state_directory(
    given: dict[str, str], expected: str
) -> None:
    lines = Lines()
    run_job(
        make_runner("state-directory", lines=lines, environment=ENVIRONMENT | given)
    )
    assert lines.text == expected


def test_a_cancelled_job_leaves_no_process(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    runner = make_runner("hang", str(pid_file))

    async def cancel_it() -> None:
        job = asyncio.create_task(runner.run(list(key_requests(CONFIG).values())))
        await until(lambda: pid_file.exists() and pid_file.read_text() != "")
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job

    run(cancel_it())
    assert is_gone(int(pid_file.read_text()))


def test_two_jobs_at_once_are_a_bug() -> None:
    runner = make_runner("hang", timeout=SHORT_SECONDS)

    async def twice() -> None:
        job = asyncio.create_task(runner.run(list(key_requests(CONFIG).values())))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError):
            await runner.run(())
        with pytest.raises(ReleaserError):
            await job

    run(twice())


def test_a_grandchild_left_behind_is_killed_and_does_not_delay() -> None:
    lines = Lines()
    # It holds the pipes open for an hour: a runner that waited for it would time out.
    release = run_job(make_runner("grandchild", lines=lines))
    assert release.result.released
    run(until(lambda: is_gone(int(lines.text))))


def test_of_a_chatty_releaser_the_end_is_logged() -> None:
    lines = Lines()
    run_job(make_runner("chatty", lines=lines))
    assert lines[-1] == ("last", True)
    assert len(lines.text) <= MAX_STDERR_BYTES


def test_the_same_crash_is_logged_once_and_then_counted() -> None:
    lines = Lines()
    runner = make_runner("crash-late", lines=lines)
    code_of(runner)
    told = len(lines)
    code_of(runner)
    ((line, _),) = lines[told:]
    assert line == f"{lines[told - 1][0]} (as before, 2 times)"


def test_a_bug_of_one_key_is_logged_and_counted_and_the_others_are_released() -> None:
    lines = Lines()
    runner = make_runner("bug-of-one-key", lines=lines)
    before = INTERNAL_ERRORS.counts["releaser_said"]
    for _ in range(2):
        release = run_job(runner)
        assert [key.alias for key in release.result.released] == ["disk"]
    assert [line for line in lines if "RuntimeError" in line[0]] == [
        ("builtins.RuntimeError", False),
        ("builtins.RuntimeError (as before, 2 times)", False),
    ]
    assert INTERNAL_ERRORS.counts["releaser_said"] == before + 2


def test_a_crash_is_logged_without_the_token_in_it() -> None:
    lines = Lines()
    code_of(make_runner("crash-late", lines=lines))
    assert lines[-1] == ("ZeroDivisionError: with a token [token]", False)


def test_the_releaser_sees_of_our_environment_only_what_it_needs() -> None:
    lines = Lines()
    run_job(make_runner("environment", lines=lines))
    seen = json.loads(lines.text)
    assert seen.keys() - {"LC_CTYPE"} == {"PATH", "HTTPS_PROXY"}  # python's own


def test_no_descriptor_is_left_after_jobs_of_every_kind() -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    run_job(make_runner("release"))
    before = descriptors()
    for mode in ("release", "garbage", "sigkill"):
        runner = make_runner(mode)
        if mode == "release":
            run_job(runner)
        else:
            code_of(runner)
    assert descriptors() == before
