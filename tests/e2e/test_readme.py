"""What the README tells people to type does what it says."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.deadlines import DEADLINE_SECONDS
from support.e2e import Agent, config_for, create_key

from skragent.emulator.faults.catalogue import parse
from skragent.emulator.imds.identities import TENANT_ID

if TYPE_CHECKING:
    from skragent.emulator.thread import EmulatorThread

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
CURLS = re.findall(r"^ {4}(curl .*/run/skragent.*)$", README, re.MULTILINE)
FAULT_CURLS = re.findall(
    r"^ {4}(curl .*/tmp/emu/faults.sock .*)$", README, re.MULTILINE
)


def test_each_request_of_the_api_has_its_example() -> None:
    for path in ("/v1/keys", "/v1/keys/db", "/v1/keys/db/public", "/v1/status"):
        assert any(f"http://localhost{path}" in curl for curl in CURLS)
    assert len(CURLS) >= 12


@pytest.mark.swtpm
def test_every_curl_example_is_answered(
    emulator: EmulatorThread, directory: Path
) -> None:
    if "db" not in emulator.instance.vault.store.names:
        create_key(emulator, "db:EC")
    with Agent(directory, config_for(emulator, directory, "db")) as agent:
        agent.until(lambda: agent.holds("db"))
        for curl in CURLS:
            command = curl.replace("/run/skragent", str(directory))
            done = subprocess.run(
                ["/bin/bash", "-c", command.replace("curl ", "curl -sSf ", 1)],
                capture_output=True,
                timeout=DEADLINE_SECONDS,
                check=False,
            )
            assert done.returncode == 0, (curl, done.stderr)
            assert done.stdout, curl


@pytest.mark.swtpm
def test_every_fault_example_is_answered(emulator: EmulatorThread) -> None:
    assert len(FAULT_CURLS) == 3
    for curl in FAULT_CURLS:
        command = curl.replace("/tmp/emu", str(emulator.instance.directory))
        done = subprocess.run(
            ["/bin/bash", "-c", command.replace("curl ", "curl -sSf ", 1)],
            capture_output=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
        assert done.returncode == 0, (curl, done.stderr)
    assert emulator.instance.faults.applied == []  # the last one mends


@pytest.mark.swtpm
def test_the_application_is_the_emulators(emulator: EmulatorThread) -> None:
    (text,) = re.findall(r"```toml\n(\[identity\]\n.*?)```", README, re.DOTALL)
    told = tomllib.loads(text)["identity"]
    azure = emulator.instance.azure
    assert told["tenant_id"] == TENANT_ID
    assert told["client_id"] == azure.application.client_id
    files = azure.application_files
    assert Path(told["secret_file"]).name == files.secret.name
    for path in (files.certificate, files.token):
        assert f'"/tmp/emu/{path.name}"' in text


def test_every_fault_that_the_readme_names_is_one() -> None:
    named = re.findall(r"--fault (\S+)", README)
    assert len(named) >= 2
    for fault in named:
        parse(fault)
