"""A held key survives every fault; each example ended keys once.

An authority's own denial ends a key: see test_key_released_end_to_end. Here each
attempt fails, as often as would confirm a denial, and the key stays. One agent takes it
all.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.e2e import Agent, config_for, type_
from support.transient_faults import TRANSIENT_FAULTS

from skragent.cli.main import main
from skragent.emulator.thread import EmulatorThread

pytestmark = pytest.mark.swtpm

ATTEMPTS = 2  # the number that confirms a denial

CASES = [(code, faults) for code, all_ in TRANSIENT_FAULTS.items() for faults in all_]


class Surviving:
    """An agent that holds `demo`, and the number of log lines per code."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self._admin = str(agent.socket.with_name("admin.sock"))

    def count(self, text: str) -> int:
        return len(re.findall(text, self.agent.log.read_text()))

    def refresh(self, text: str) -> None:
        """Refresh, and wait until the log has this text once more."""
        before = self.count(text)
        assert main(["refresh", "--socket", self._admin]) == 0
        self.agent.until(lambda: self.count(text) > before)

    def must_fail(self, code: str, times: int = ATTEMPTS) -> None:
        for _ in range(times):
            self.refresh(rf" code={re.escape(code)}\b")
            assert self.agent.holds("demo")
        assert self.agent.process.poll() is None

    def must_succeed(self) -> None:
        self.refresh("demo: version .* is held")
        assert self.agent.holds("demo")


@contextlib.contextmanager
def surviving(
    emulator: EmulatorThread, directory: Path, change: Callable[[str], str] = str
) -> Iterator[Surviving]:
    config = change(config_for(emulator, directory, "demo"))
    admin = f'admin_socket = "{directory}/admin.sock"'
    config = re.sub(r'(?m)^admin_socket = ".*"$', admin, config)
    with Agent(directory, config) as agent:
        agent.until(lambda: agent.holds("demo"))
        yield Surviving(agent)


@pytest.fixture(scope="module")
def held(running_emulator: EmulatorThread) -> Iterator[Surviving]:
    with (
        tempfile.TemporaryDirectory(prefix="skr-") as name,
        surviving(running_emulator, Path(name)) as one,
    ):
        yield one


@pytest.mark.parametrize(
    ("code", "faults"), CASES, ids=[f"{c} {' '.join(f)}"[:80] for c, f in CASES]
)
def test_a_held_key_survives(
    emulator: EmulatorThread, held: Surviving, code: str, faults: tuple[str, ...]
) -> None:
    world = emulator.instance
    for fault in faults:
        emulator.call(world.faults.apply(fault.replace("VAULT", world.vault.url)))
    is_once = any(fault.endswith(("times=1", "times=2")) for fault in faults)
    held.must_fail(code, 1 if is_once else ATTEMPTS)
    emulator.call(world.faults.reset())
    held.must_succeed()


def test_a_held_key_survives_an_unknown_region(
    emulator: EmulatorThread, directory: Path
) -> None:
    with surviving(emulator, directory) as one:
        config = directory / "skragent.toml"
        auto = re.sub(
            r'(?m)^endpoint = "https.*$', 'endpoint = "auto"', config.read_text()
        )
        config.write_text(auto)
        emulator.call(
            emulator.instance.faults.apply('imds.compute.location="atlantis"')
        )
        assert main(["reload", "--socket", str(directory / "admin.sock")]) == 0
        one.must_fail("token.endpoint")


@pytest.mark.parametrize("content", ["", "no certificate", None])
def test_a_held_key_survives_unusable_roots_during_a_refresh(
    emulator: EmulatorThread, directory: Path, content: str | None
) -> None:
    roots = directory / "roots.pem"

    def move_roots(config: str) -> str:
        (named,) = re.findall(r'(?m)^release_roots = "(.*)"$', config)
        roots.write_bytes(Path(named).read_bytes())
        return config.replace(
            f'release_roots = "{named}"', f'release_roots = "{roots}"'
        )

    with surviving(emulator, directory, move_roots) as one:
        good = roots.read_bytes()
        if content is None:
            roots.unlink()
        else:
            roots.write_text(content)
        one.must_fail("config.invalid")
        status = type_(one.agent, "status").stdout
        assert "key demo needs attention: config.invalid" in status
        roots.write_bytes(good)
        one.must_succeed()


@pytest.mark.parametrize("fault", ["vm.rc=0x18b,times=1", "vm.rc=0x101,times=1"])
def test_one_unexpected_response_of_the_tpm_at_boot_does_not_end_the_agent(
    emulator: EmulatorThread, directory: Path, fault: str
) -> None:
    emulator.call(emulator.instance.faults.apply(fault))
    with surviving(emulator, directory) as one:
        assert one.count("Next attempt in") == 1


def test_a_release_without_a_nonce_is_held_and_shown(
    emulator: EmulatorThread, directory: Path
) -> None:
    emulator.call(emulator.instance.faults.apply("vault.release.payload.request.nonce"))
    with surviving(emulator, directory) as one:
        assert "does not repeat the request" in type_(one.agent, "status").stdout
