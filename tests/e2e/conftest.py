"""One emulator for all tests. Each test begins without faults and has its own agent."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.e2e import create_key
from support.vtpm import vm_directory

from skragent.emulator.thread import EmulatorThread


@pytest.fixture(scope="session")
def running_emulator() -> Iterator[EmulatorThread]:
    with vm_directory() as home, EmulatorThread(home) as emulator:
        emulator.instance.imds.is_limited = False  # all agents share a VM's limit
        create_key(emulator, "demo:RSA")
        yield emulator


@pytest.fixture
def emulator(running_emulator: EmulatorThread) -> Iterator[EmulatorThread]:
    emulated = running_emulator.instance
    chip = emulated.vm.paravisor.chip
    yield running_emulator
    running_emulator.call(emulated.faults.reset())
    emulated.vm.paravisor.chip = chip
    emulated.vm.paravisor.tamper = None
    running_emulator.call(emulated.vm.reboot())


@pytest.fixture
def directory() -> Iterator[Path]:
    # Not `tmp_path`: the path of a Unix socket has at most 107 bytes (unix(7)).
    with tempfile.TemporaryDirectory(prefix="skr-") as name:
        yield Path(name)
