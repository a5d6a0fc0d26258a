"""A held key survives every transient fault.

Only an authority's denial drops a key: see test_key_released_end_to_end. Here attempts
fail as often as a denial needs for confirmation, and the key stays. Most tests share
one agent.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.e2e import Agent, config_for, run_command
from support.transient_faults import TRANSIENT_FAULTS

from skragent.cli.main import main
from skragent.emulator.thread import EmulatorThread

pytestmark = pytest.mark.swtpm

ATTEMPTS = 2  # this number of attempts would confirm a denial

CASES = [(code, faults) for code, all_ in TRANSIENT_FAULTS.items() for faults in all_]


class HoldingAgent:
    """An agent that holds `demo`, with counts of the messages in its log."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self._admin = str(agent.socket.with_name("admin.sock"))

    def count(self, text: str) -> int:
        return len(re.findall(text, self.agent.log.read_text()))

    def refresh(self, text: str) -> None:
        """Refresh the key, and wait until the log has this text once more."""
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
def holding_agent(
    emulator: EmulatorThread, directory: Path, change: Callable[[str], str] = str
) -> Iterator[HoldingAgent]:
    config = change(config_for(emulator, directory, "demo"))
    admin = f'admin_socket = "{directory}/admin.sock"'
    config = re.sub(r'(?m)^admin_socket = ".*"$', admin, config)
    with Agent(directory, config) as agent:
        agent.until(lambda: agent.holds("demo"))
        yield HoldingAgent(agent)


@pytest.fixture(scope="module")
def held(running_emulator: EmulatorThread) -> Iterator[HoldingAgent]:
    with (
        tempfile.TemporaryDirectory(prefix="skr-") as name,
        holding_agent(running_emulator, Path(name)) as held,
    ):
        yield held


@pytest.mark.parametrize(
    ("code", "faults"), CASES, ids=[f"{c} {' '.join(f)}"[:80] for c, f in CASES]
)
def test_a_held_key_survives_transient_faults(
    emulator: EmulatorThread, held: HoldingAgent, code: str, faults: tuple[str, ...]
) -> None:
    emulated = emulator.instance
    for fault in faults:
        emulator.call(emulated.faults.apply(fault.replace("VAULT", emulated.vault.url)))
    is_once = any(fault.endswith(("times=1", "times=2")) for fault in faults)
    held.must_fail(code, 1 if is_once else ATTEMPTS)
    emulator.call(emulated.faults.reset())
    held.must_succeed()


def test_a_held_key_survives_an_unknown_region(
    emulator: EmulatorThread, directory: Path
) -> None:
    with holding_agent(emulator, directory) as held:
        config = directory / "skragent.toml"
        auto = re.sub(
            r'(?m)^endpoint = "https.*$', 'endpoint = "auto"', config.read_text()
        )
        config.write_text(auto)
        emulator.call(
            emulator.instance.faults.apply('imds.compute.location="atlantis"')
        )
        assert main(["reload", "--socket", str(directory / "admin.sock")]) == 0
        held.must_fail("token.endpoint")


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

    with holding_agent(emulator, directory, move_roots) as held:
        good = roots.read_bytes()
        if content is None:
            roots.unlink()
        else:
            roots.write_text(content)
        held.must_fail("config.invalid")
        status = run_command(held.agent, "status").stdout
        assert "key demo needs attention: config.invalid" in status
        roots.write_bytes(good)
        held.must_succeed()


@pytest.mark.parametrize("fault", ["vm.rc=0x18b,times=1", "vm.rc=0x101,times=1"])
def test_one_unusual_response_of_the_tpm_at_boot_does_not_end_the_agent(
    emulator: EmulatorThread, directory: Path, fault: str
) -> None:
    emulator.call(emulator.instance.faults.apply(fault))
    with holding_agent(emulator, directory) as held:
        assert held.count("Next attempt in") == 1


def test_a_key_released_without_a_nonce_is_held_and_status_shows_it(
    emulator: EmulatorThread, directory: Path
) -> None:
    emulator.call(emulator.instance.faults.apply("vault.release.payload.request.nonce"))
    with holding_agent(emulator, directory) as held:
        assert "does not repeat the request" in run_command(held.agent, "status").stdout
