"""The installed command, for tests against the whole emulator."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self

from support.deadlines import DEADLINE_SECONDS, wait_until

from skragent.client import SkragentClient, SkragentError
from skragent.emulator.keyvault.key_specs import parse_key_spec

if TYPE_CHECKING:
    from skragent.emulator.keyvault.vault import Vault
    from skragent.emulator.thread import EmulatorThread

SKRAGENT = (sys.executable, "-I", "-m", "skragent.cli.main")


class Agent:
    """`skragent run` on a configuration, in a directory of its own.

    Args:
        directory: the directory of the configuration, the sockets and the log.
        config: the configuration.
        environment: additional environment variables.
        state: the directory of systemd's StateDirectory=; None: there is none.
    """

    def __init__(
        self,
        directory: Path,
        config: str,
        environment: Mapping[str, str] | None = None,
        *,
        state: Path | None = None,
    ) -> None:
        given = dict(environment or {})
        if state is not None:
            given["STATE_DIRECTORY"] = str(state)
        self.socket = directory / "api.sock"
        self.client = SkragentClient(str(self.socket))
        self.log = directory / "agent.log"
        (directory / "skragent.toml").write_text(config)
        with self.log.open("wb") as sink:
            self.process = subprocess.Popen(
                [*SKRAGENT, "run", "--config", directory / "skragent.toml"],
                stdout=sink,
                stderr=sink,
                env=os.environ | given,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def until(self, is_so: Callable[[], bool]) -> None:
        """Wait for a condition that another process causes."""
        wait_until(is_so, self.log.read_text)

    def holds(self, alias: str) -> bool:
        """Return whether the agent serves the key; every error means no."""
        try:
            self.client.get_key(alias)
        except SkragentError:
            return False
        return True

    def first_failure(self) -> str:
        """Wait for the first failure in the log, and return its code."""

        def codes() -> list[str]:
            return re.findall(r" code=(\S+)", self.log.read_text())

        self.until(lambda: bool(codes()) or self.process.poll() is not None)
        return (codes() or ["none"])[0]


def run_command(agent: Agent, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of skragent with this agent's configuration."""
    config = agent.socket.with_name("skragent.toml")
    return subprocess.run(
        [*SKRAGENT, *words, "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )


def config_for(
    emulator: EmulatorThread, directory: Path, *aliases: str, **other: str
) -> str:
    """Return a configuration with these keys and a socket in the directory.

    `other` replaces values by setting, such as `tcti`.
    """
    text = emulator.instance.config_text(aliases, api_socket=directory / "api.sock")
    for name, value in other.items():
        text, count = re.subn(rf'(?m)^{name} = ".*"$', f'{name} = "{value}"', text)
        assert count == 1
    return text


def create_key(emulator: EmulatorThread, spec: str, vault: Vault | None = None) -> None:
    """Create an exportable key that this VM's attestation releases."""
    emulator.instance.create_key(parse_key_spec(spec), vault)
