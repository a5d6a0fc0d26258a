"""What the README tells people to type does what it says."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.e2e import Agent, config_for, create_key

if TYPE_CHECKING:
    from skragent.emulator.thread import EmulatorThread

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
CURLS = re.findall(r"^ {4}(curl .*)$", README, re.MULTILINE)


def test_each_request_of_the_api_has_its_example() -> None:
    for path in ("/v1/keys", "/v1/keys/db", "/v1/keys/db/public", "/v1/status"):
        assert any(f"http://localhost{path}" in curl for curl in CURLS)
    assert len(CURLS) >= 12


@pytest.mark.swtpm
def test_every_curl_example_is_answered(
    emulator: EmulatorThread, directory: Path
) -> None:
    if "db" not in emulator.world.vault.store.names:
        create_key(emulator, "db:EC")
    with Agent(directory, config_for(emulator, directory, "db")) as agent:
        agent.until(lambda: agent.holds("db"))
        for curl in CURLS:
            command = curl.replace("/run/skragent", str(directory))
            done = subprocess.run(
                ["/bin/bash", "-c", command.replace("curl ", "curl -sSf ", 1)],
                capture_output=True,
                timeout=30,
                check=False,
            )
            assert done.returncode == 0, (curl, done.stderr)
            assert done.stdout, curl
