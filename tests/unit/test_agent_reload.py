"""When a changed file is applied or refused, and what is reported."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from support.agent import FakeClock, run, until
from support.deadlines import DEADLINE_SECONDS

from skragent.agent.reload import LOOK_UP_SECONDS, Outcome, Reloader, call_with_timeout
from skragent.agent.systemd_notify import Notifier
from skragent.errors import ConfigError
from skragent.exit_codes import CONFIG, TEMPFAIL, exit_code_of, exit_code_of_start
from skragent.observe import Counters

if TYPE_CHECKING:
    from skragent.config import Config
    from skragent.serving import Access

FILE = '[keys.disk]\nvault = "https://v.vault.azure.net"\n'


class Systemd(Notifier):
    """Hears what systemd would."""

    def __init__(self) -> None:
        super().__init__({})
        self.heard: list[str] = []

    def reloading(self) -> None:
        self.heard.append("reloading")

    def reloaded(self) -> None:
        self.heard.append("reloaded")


@dataclass
class World:
    """A file, and what came of it."""

    text: str = FILE
    read: Callable[[], str] | None = None
    is_broken: bool = False  # what puts a configuration in force
    needs_restart: tuple[str, ...] = ()
    applied: list[list[str]] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    clock: FakeClock = field(default_factory=FakeClock)
    systemd: Systemd = field(default_factory=Systemd)
    counters: Counters = field(default_factory=Counters)
    reloader: Reloader = field(init=False)

    def __post_init__(self) -> None:
        self.reloader = Reloader(
            lambda: self.read() if self.read else self.text,
            self.apply,
            clock=self.clock,
            notifier=self.systemd,
            counters=self.counters,
        )

    def apply(self, config: Config, access: Access) -> tuple[str, ...]:
        assert access.rules.keys() == config.keys.keys()
        if self.is_broken:
            raise LookupError
        self.applied.append(list(config.keys))
        return self.needs_restart

    async def reload(self) -> Outcome:
        before = len(self.outcomes)
        self.reloader.request_reload(self.outcomes.append)
        await until(lambda: len(self.outcomes) > before)
        return self.outcomes[-1]


def reloading(world: World, test: Callable[[], Coroutine[Any, Any, None]]) -> World:
    """Run a test beside the reloader."""

    async def both() -> World:
        obeying = asyncio.create_task(world.reloader.run())
        await test()
        obeying.cancel()
        return world

    return run(both())


def outcome_of(world: World) -> Outcome:
    async def test() -> None:
        await world.reload()

    return reloading(world, test).outcomes[-1]


def test_a_valid_file_is_applied_and_systemd_is_notified() -> None:
    world = World()
    assert outcome_of(world) == Outcome()
    assert world.applied == [["disk"]]
    assert world.systemd.heard == ["reloading", "reloaded"]


def test_settings_that_need_a_restart_are_reported() -> None:
    world = World(needs_restart=("agent.api_socket",))
    assert outcome_of(world).needs_restart == ("agent.api_socket",)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("[keys", "config.syntax"),
        ('[keys.disk]\nvault = "ftp://v"\n', "config.invalid"),
        ("", "config.invalid"),
        (f'{FILE}allow = [{{ user = "missing-user" }}]', "config.unknown_name"),
    ],
)
def test_a_bad_file_is_refused_whole(text: str, code: str) -> None:
    world = World(text)
    outcome = outcome_of(world)
    assert outcome.error is not None
    assert outcome.error.code == code
    assert world.applied == []
    assert world.systemd.heard == ["reloading", "reloaded"]


def test_a_file_that_cannot_be_read_is_refused() -> None:
    def fail() -> str:
        raise ConfigError(["x"], code="config.unreadable")

    outcome = outcome_of(World(read=fail))
    assert outcome.error is not None
    assert outcome.error.code == "config.unreadable"


def test_a_metric_shows_whether_the_last_file_is_in_force() -> None:
    world = World("[keys")
    assert world.counters.is_reloaded

    async def test() -> None:
        await world.reload()
        assert not world.counters.is_reloaded
        world.text = FILE
        await world.reload()
        assert world.counters.is_reloaded

    reloading(world, test)


def test_a_bug_ends_no_agent() -> None:
    def fail() -> str:
        raise LookupError

    world = World(read=fail)

    async def test() -> None:
        first = await world.reload()
        assert first.error is not None
        assert first.error.code == "internal"
        world.read = None
        assert (await world.reload()).error is None

    reloading(world, test)


def test_a_configuration_that_cannot_be_put_in_force_ends_no_reloader() -> None:
    world = World(is_broken=True)

    async def test() -> None:
        first = await world.reload()
        assert first.error is not None
        assert first.error.code == "internal"
        world.is_broken = False
        assert (await world.reload()).error is None

    reloading(world, test)


def test_a_file_that_changes_while_it_is_read_is_read_again() -> None:
    world = World()
    is_read, may_go_on = threading.Event(), threading.Event()

    def read_slowly() -> str:
        is_read.set()
        may_go_on.wait(DEADLINE_SECONDS)
        return FILE

    async def test() -> None:
        world.read = read_slowly
        world.reloader.request_reload(world.outcomes.append)
        await until(is_read.is_set)
        world.read = None
        world.text = FILE.replace("disk", "new")
        world.reloader.request_reload(world.outcomes.append)
        may_go_on.set()
        await until(lambda: len(world.outcomes) == 2)

    assert reloading(world, test).applied == [["disk"], ["new"]]


def test_a_directory_that_does_not_answer_is_not_waited_for_for_ever() -> None:
    world = World()
    may_go_on = threading.Event()

    def hang() -> str:
        may_go_on.wait(DEADLINE_SECONDS)
        return FILE

    async def test() -> None:
        world.read = hang
        world.reloader.request_reload(world.outcomes.append)
        await world.clock.advance(LOOK_UP_SECONDS + 1)
        world.reloader.request_reload(world.outcomes.append)
        await until(lambda: len(world.outcomes) == 2)
        may_go_on.set()

    reloading(world, test)
    codes = [outcome.error and outcome.error.code for outcome in world.outcomes]
    assert codes == ["config.timeout", "config.timeout"]
    assert world.applied == []


def test_the_functions_result_is_returned() -> None:
    assert call_with_timeout(lambda: 5) == 5


def test_the_functions_error_is_raised() -> None:
    def fail() -> None:
        raise ConfigError(["x"], code="config.unknown_name")

    with pytest.raises(ConfigError) as caught:
        call_with_timeout(fail)
    assert caught.value.code == "config.unknown_name"


def test_a_look_up_that_hangs_is_given_up_and_another_start_may_succeed() -> None:
    may_go_on = threading.Event()
    with pytest.raises(ConfigError) as caught:
        call_with_timeout(lambda: may_go_on.wait(DEADLINE_SECONDS), seconds=0.01)
    may_go_on.set()
    assert caught.value.code == "config.timeout"
    assert exit_code_of(caught.value) == TEMPFAIL


def test_a_typo_is_final_only_where_systemd_keeps_no_key() -> None:
    error = ConfigError(["x"], code="config.syntax")
    assert exit_code_of_start(error, keeps_keys=False) == CONFIG
    assert exit_code_of_start(error, keeps_keys=True) == TEMPFAIL
