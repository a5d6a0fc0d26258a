"""Shell completion with the installed command and a running agent."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.completion import complete
from support.e2e import Agent, config_for, create_key

if TYPE_CHECKING:
    from skragent.emulator.thread import EmulatorThread

pytestmark = [
    pytest.mark.swtpm,
    pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash"),
]


def test_bash_offers_the_keys_of_the_running_agent(
    emulator: EmulatorThread, directory: Path
) -> None:
    if "db" not in emulator.instance.vault.store.names:
        create_key(emulator, "db:EC")
    with Agent(directory, config_for(emulator, directory, "demo", "db")) as agent:
        agent.until(lambda: agent.holds("demo") and agent.holds("db"))
        for socket in ("admin.sock", "api.sock"):
            words = ["get", "--socket", str(directory / socket), ""]
            offered = complete(*words, path=Path(sys.executable).parent)
            assert offered == ["demo", "db"]
