"""A confidential VM for blocking clients: its loop runs in a thread of its own.

The chip is minted once for the whole run (two RSA-4096 keys): each VM gets a copy.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from support.deadlines import DEADLINE_SECONDS

from skragent.emulator.amd.chip import Chip
from skragent.emulator.confidential_vm import ConfidentialVm

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CLIENT = Path(__file__).with_name("vtpm_client.py")

# TPM2_GetRandom of 8 bytes: the smallest thing that a TPM can be asked.
GET_RANDOM = struct.pack(">HIIH", 0x8001, 12, 0x17B, 8)

_T = TypeVar("_T")


@functools.cache
def minted_chip() -> Path:
    """Mint the chip, and return its directory."""
    home = Path(tempfile.mkdtemp(prefix="chip-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    asyncio.run(Chip.load_or_mint(home / "chip-milan", "milan", now=NOW))
    return home / "chip-milan"


@contextlib.contextmanager
def vm_directory() -> Iterator[Path]:
    """Make a directory with a chip in it; its path is short, unlike pytest's own."""
    home = Path(tempfile.mkdtemp(prefix="vm-"))
    try:
        shutil.copytree(minted_chip(), home / "chip-milan")
        yield home
    finally:
        shutil.rmtree(home)


class SteppedClock:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class RunningVm:
    """A running VM, and the thread of its loop."""

    def __init__(self, directory: Path, **options: Any) -> None:  # noqa: ANN401 - of start()
        self.directory = directory
        self.clock = SteppedClock()
        self._options: dict[str, Any] = {"now": lambda: NOW, "monotonic": self.clock}
        self._options |= options
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self.vm: ConfidentialVm

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self.vm = self.call(
                lambda: ConfidentialVm.start(self.directory, **self._options)
            )
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.call(self.vm.close)
        self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def call(self, make: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Run a coroutine in the VM's loop."""
        return asyncio.run_coroutine_threadsafe(make(), self._loop).result(
            DEADLINE_SECONDS
        )

    def ask(self, command: bytes) -> bytes:
        """Send raw bytes on a connection of their own, as the swtpm TCTI does."""
        return ask_vtpm(self.directory / "tpm.sock", command)

    def connect(self, name: str = "tpm.sock") -> socket.socket:
        """Open one of the VM's sockets."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(DEADLINE_SECONDS)
        connection.connect(str(self.directory / name))
        return connection

    def client(self) -> subprocess.Popen[str]:
        """Start a process that loads three keys and a session and then waits."""
        return subprocess.Popen(
            [sys.executable, str(CLIENT), self.vm.tcti],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"TSS2_LOG": "all+NONE"},
        )


def ask_vtpm(path: Path, command: bytes) -> bytes:
    """Send raw bytes to a vTPM's socket, and give the whole response."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE_SECONDS)
        connection.connect(str(path))
        connection.sendall(command)
        return read_response(connection)


def read_response(connection: socket.socket) -> bytes:
    """Read one whole response."""
    received = b""
    while len(received) < 10 or len(received) < int.from_bytes(received[2:6]):
        more = connection.recv(4096)
        if not more:
            raise EOFError(received.hex())
        received += more
    return received


def code_of(response: bytes) -> int:
    """Return a response's code."""
    return int.from_bytes(response[6:10])
