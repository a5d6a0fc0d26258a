"""Fixtures of the tests of the emulator's faults, which are reset after each test.

Each module has its own emulator, because a reset does not undo every change: a rotated
signing key stays rotated.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.faults import Broken, breakable
from support.vtpm import vm_directory

from skragent.emulator.thread import EmulatorThread


@pytest.fixture(scope="module")
def running_azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broken]:
    with breakable(tmp_path_factory.mktemp("azure")) as azure:
        yield azure


@pytest.fixture
def broken(running_azure: Broken) -> Iterator[Broken]:
    """The emulated services around a VM without a TPM."""
    yield running_azure
    running_azure.reset()


@pytest.fixture(scope="module")
def running_emulator() -> Iterator[EmulatorThread]:
    with vm_directory() as directory, EmulatorThread(directory) as emulator:
        emulator.instance.imds.is_limited = False
        yield emulator


@pytest.fixture
def emulator(running_emulator: EmulatorThread) -> Iterator[EmulatorThread]:
    """The whole emulator with a TPM; the test must have the `swtpm` marker."""
    yield running_emulator
    running_emulator.call(running_emulator.instance.faults.reset())
