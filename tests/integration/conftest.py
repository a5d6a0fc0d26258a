"""What the tests of the emulator's faults share: something to break, healed after each.

One for each module: what has happened to it, such as a signing key that was rotated,
the reset does not undo.
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
    """The services alone, around a VM of plain software."""
    yield running_azure
    running_azure.reset()


@pytest.fixture(scope="module")
def running_emulator() -> Iterator[EmulatorThread]:
    with vm_directory() as directory, EmulatorThread(directory) as emulator:
        emulator.instance.imds.is_limited = False
        yield emulator


@pytest.fixture
def emulator(running_emulator: EmulatorThread) -> Iterator[EmulatorThread]:
    """The whole emulator, with a TPM: the test must carry the `swtpm` marker."""
    yield running_emulator
    running_emulator.call(running_emulator.instance.faults.reset())
