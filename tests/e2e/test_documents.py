"""The commands of README.md and docs/ work as written."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import documents
from support.deadlines import DEADLINE_SECONDS
from support.e2e import SKRAGENT, Agent, config_for, create_key

from skragent.emulator.faults.catalogue import parse
from skragent.emulator.imds.identities import TENANT_ID

if TYPE_CHECKING:
    from skragent.emulator.thread import EmulatorThread

COMMANDS = [
    line for block in documents.blocks("sh") for line in documents.command_lines(block)
]
# Commands that delete come last, because the other commands need the key.
CURLS = sorted(
    (line for line in COMMANDS if re.match("curl .*/run/skragent", line)),
    key=lambda line: "DELETE" in line,
)
FAULT_CURLS = [line for line in COMMANDS if re.match("curl .*/faults.sock", line)]


def test_each_request_of_the_api_has_an_example() -> None:
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
def test_the_python_example_gets_a_key(
    emulator: EmulatorThread, directory: Path
) -> None:
    (block,) = (b for b in documents.blocks("python") if "SkragentClient" in b.text)
    if "db" not in emulator.instance.vault.store.names:
        create_key(emulator, "db:EC")
    with Agent(directory, config_for(emulator, directory, "db")) as agent:
        agent.until(lambda: agent.holds("db"))
        client = f"SkragentClient({str(agent.socket)!r})"
        code = block.text.replace("SkragentClient()", client)
        done = subprocess.run(
            # The example watches for ever: the first version is enough.
            [sys.executable, "-I", "-c", f"{code}\n    break"],
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert re.fullmatch(r"[0-9a-f]{32}\n", done.stdout)


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
    assert emulator.instance.faults.applied == []  # the last example resets them


@pytest.mark.swtpm
def test_the_documented_application_exists_in_the_emulator(
    emulator: EmulatorThread,
) -> None:
    (text,) = (
        block.text
        for block in documents.blocks("toml")
        if block.path == "docs/emulator.md" and "tenant_id" in block.text
    )
    shown = tomllib.loads(text)["identity"]
    azure = emulator.instance.azure
    assert shown["tenant_id"] == TENANT_ID
    assert shown["client_id"] == azure.application.client_id
    files = azure.application_files
    assert Path(shown["secret_file"]).name == files.secret.name
    for path in (files.certificate, files.token):
        assert f'"/tmp/emu/{path.name}"' in text


def test_every_fault_in_the_documents_parses() -> None:
    named = [
        fault
        for path in documents.paths()
        for fault in re.findall(r"--fault ([a-z]+\.\S+)", documents.read(path))
    ]
    assert len(named) >= 2
    for fault in named:
        parse(fault)


@pytest.mark.swtpm
def test_the_readme_shows_what_the_demo_prints() -> None:
    (shown,) = (b.text for b in documents.blocks("text") if "demo: ok" in b.text)
    done = subprocess.run(
        [*SKRAGENT, "demo"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=True,
    )
    printed = [_without_values(line) for line in done.stdout.splitlines()]
    lines = [line for line in shown.splitlines() if line.strip(" …")]
    for line in lines:
        start = _without_values(line.partition(" |")[0])
        assert any(p.startswith(start) for p in printed), line


def _without_values(line: str) -> str:
    """Replace values that differ between runs."""
    line = re.sub(r"[0-9a-f]{32,}", "ID", line)
    line = re.sub(r"127\.0\.0\.1:\d+", "HOST", line)
    line = re.sub(r"\d{4}-\d\d-\d\dT[\d:]+Z", "TIME", line)
    return re.sub(r"\buid \d+|\d+\.\d+ s$", "N", line)
