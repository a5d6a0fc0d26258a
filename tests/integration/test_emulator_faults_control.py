"""Faults from outside the emulator: its control socket, and its command line."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from support.deadlines import DEADLINE_SECONDS
from support.unix_session import unix_session
from support.vtpm import vm_directory

from skragent.emulator.faults.catalogue import all_faults
from skragent.emulator.thread import EmulatorThread

URL = "http://localhost/faults"
COMMAND = [sys.executable, "-I", "-m", "skragent.cli.main", "emulator"]


@pytest.fixture
def control(emulator: EmulatorThread) -> Iterator[requests.Session]:
    with unix_session(emulator.instance.directory / "faults.sock") as session:
        yield session


def status_of_maa(emulator: EmulatorThread) -> int:
    azure = emulator.instance.azure
    url = f"{azure.maa.issuer}/certs"
    return requests.get(
        url, verify=str(azure.ca_path), timeout=DEADLINE_SECONDS
    ).status_code


@pytest.mark.swtpm
def test_faults_are_applied_listed_and_reset(
    emulator: EmulatorThread, control: requests.Session
) -> None:
    answers = [
        control.post(URL, json={"fault": text})
        for text in ("maa.status=503", "vm.pcr=5")
    ]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[-1].json() == {"applied": ["maa.status=503", "vm.pcr=5"]}
    assert status_of_maa(emulator) == 503
    assert control.get(URL).json()["applied"] == ["maa.status=503", "vm.pcr=5"]
    assert control.delete(URL).json() == {"applied": []}
    assert status_of_maa(emulator) == 200
    assert control.get(URL).json()["applied"] == []


@pytest.mark.swtpm
def test_all_faults_are_listed(control: requests.Session) -> None:
    told = control.get(URL).json()["catalogue"]
    assert told == [{"fault": f.pattern, "effect": f.summary} for f in all_faults()]


@pytest.mark.swtpm
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"maa.hang",
        b"[]",
        b"{}",
        b'{"fault": 1}',
        b'{"fault": "maa.hang", "times": 2}',
        b"[" * 60000,
        b'{"fault": "maa.nothing"}',
        b'{"fault": "maa.status=9000"}',
    ],
    ids=[
        "empty",
        "no-json",
        "list",
        "none",
        "number",
        "more",
        "deep",
        "unknown",
        "value",
    ],
)
def test_invalid_fault_is_answered_with_a_problem_document(
    control: requests.Session, body: bytes
) -> None:
    answer = control.post(URL, data=body)
    assert answer.status_code == 400
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert answer.json()["code"] == "emulator.fault"
    assert control.get(URL).json()["applied"] == []


@pytest.mark.swtpm
@pytest.mark.parametrize(
    ("method", "path", "size", "status"),
    [("GET", "", 0, 404), ("PUT", "/faults", 0, 405), ("POST", "/faults", 65_537, 413)],
    ids=["path", "method", "size"],
)
def test_invalid_request_is_answered_with_a_problem_document(
    control: requests.Session, method: str, path: str, size: int, status: int
) -> None:
    answer = control.request(method, f"http://localhost{path}", data=bytes(size))
    assert answer.status_code == status
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert answer.json()["code"] == "emulator.request"


@pytest.mark.swtpm
def test_response_to_an_unknown_method_lists_the_allowed_methods(
    control: requests.Session,
) -> None:
    assert "DELETE" in control.put(URL).headers["Allow"]


@pytest.mark.swtpm
@pytest.mark.parametrize(
    "sent",
    [
        b"GARBAGE\r\n\r\n",
        b"POST /faults HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",
    ],
    ids=["malformed", "slow"],
)
def test_silent_client_does_not_block_other_clients(
    emulator: EmulatorThread, control: requests.Session, sent: bytes
) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.connect(str(emulator.instance.directory / "faults.sock"))
        other.sendall(sent)
        assert control.post(URL, json={"fault": "maa.hang"}).status_code == 200


@pytest.mark.swtpm
def test_client_that_disconnects_within_its_body_leaves_no_traceback(
    emulator: EmulatorThread,
    control: requests.Session,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.connect(str(emulator.instance.directory / "faults.sock"))
        other.sendall(b"POST /faults HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        assert control.get(URL).status_code == 200  # it is being read
    assert control.get(URL).status_code == 200
    assert caplog.records == []


@pytest.mark.swtpm
def test_only_the_owner_can_use_the_socket(emulator: EmulatorThread) -> None:
    path = emulator.instance.directory / "faults.sock"
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.swtpm
def test_command_applies_its_faults_at_the_start() -> None:
    with vm_directory() as directory:
        faults = ["--fault", "imds.status=410", "--fault", "vm.rc=0x922"]
        with subprocess.Popen(
            [*COMMAND, "--dir", str(directory), *faults],
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                assert process.stdout
                rows = {}
                for line in process.stdout:
                    label, _, value = line.strip().partition(" ")
                    rows[label] = value.strip()
                    if label == "READY":
                        break
                answer = requests.get(
                    f"{rows['IMDS']}/metadata", timeout=DEADLINE_SECONDS
                )
                assert answer.status_code == 410
                with unix_session(Path(rows["faults"])) as session:
                    applied = session.get(URL).json()["applied"]
                assert applied == faults[1::2]
            finally:
                process.terminate()
        assert process.returncode == 0
        assert not list(directory.rglob("*.sock"))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )


def test_command_lists_every_fault_without_a_directory() -> None:
    outcome = run("--list-faults")
    assert outcome.returncode == 0
    lines = outcome.stdout.splitlines()
    assert lines[::2] == [fault.pattern for fault in all_faults()]
    assert lines[1::2] == [f"    {fault.summary}" for fault in all_faults()]


def test_invalid_fault_prevents_the_start(tmp_path: Path) -> None:
    directory = tmp_path / "emu"
    outcome = run("--dir", str(directory), "--fault", "maa.slow")
    assert outcome.returncode == 2
    assert "argument --fault: the fault `maa.slow` does not exist" in outcome.stderr
    assert "--list-faults" in outcome.stderr
    assert not directory.exists()
