"""The TPM: one swtpm process with its state in a directory, one command at a time.

swtpm talks over an inherited socket pair, so no other process can connect to it. When
the emulator ends, the pair closes and swtpm ends. If swtpm is stopped and cannot
notice, the kernel kills it when its parent ends (PR_SET_PDEATHSIG).

A TPM that does not answer before the deadline is in failure mode (TPM 2.0 Part 1): it
answers every command with TPM_RC_FAILURE until the power is cycled.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import struct
from typing import TYPE_CHECKING, Final

from skragent.emulator.tpm import messages as tpm

if TYPE_CHECKING:
    from pathlib import Path

_EXIT_SECONDS: Final = 3.0


class VtpmError(Exception):
    """The TPM does not work; the message is for the user of the emulator."""


class TpmFailureMode(Exception):  # noqa: N818 - a state of the TPM, Part 1
    """The TPM no longer answers; only a power cycle helps."""


class SwtpmProcess:
    """A swtpm process, powered on or off."""

    def __init__(self, state: Path, *, deadline_seconds: float = 30.0) -> None:
        self._state = state
        self.deadline_seconds = deadline_seconds
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._failed = False

    @property
    def pid(self) -> int | None:
        """The process id, for tests and faults."""
        return self._process.pid if self._process else None

    async def power_on(self) -> None:
        """Start swtpm, which runs TPM2_Startup(CLEAR) itself.

        Raises:
            VtpmError: swtpm is missing or does not start.
        """
        ours, theirs = socket.socketpair()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *_command_line(self._state, theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C must reach only the emulator
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._reader, self._writer = await asyncio.open_connection(sock=ours)
        self._failed = False
        try:
            await self.transmit(_GET_MANUFACTURER)
        except TpmFailureMode as error:
            await self.power_off()
            raise VtpmError(
                f"swtpm did not start; see {self._state / 'swtpm.log'}"
                " (does another emulator use this directory?)"
            ) from error

    async def transmit(self, command: bytes) -> bytes:
        """Send a command and return its response; calls must not overlap.

        Raises:
            TpmFailureMode: the TPM is off, has ended or missed the deadline.
        """
        if self._failed or self._reader is None or self._writer is None:
            raise TpmFailureMode
        self._failed = True  # until the whole response has arrived
        try:
            async with asyncio.timeout(self.deadline_seconds):
                self._writer.write(command)
                await self._writer.drain()
                header = await self._reader.readexactly(tpm.HEADER_BYTES)
                (size,) = struct.unpack_from(">I", header, 2)
                if not tpm.HEADER_BYTES <= size <= tpm.MAX_RESPONSE_BYTES:
                    raise TpmFailureMode
                body = await self._reader.readexactly(size - tpm.HEADER_BYTES)
        except (TimeoutError, asyncio.IncompleteReadError, OSError) as error:
            raise TpmFailureMode from error
        self._failed = False
        return header + body

    async def power_off(self) -> None:
        """End swtpm in an orderly way; kill it if it does not answer."""
        if self._process is None or self._writer is None:
            return
        with contextlib.suppress(TpmFailureMode):
            await self.transmit(_SHUTDOWN_CLEAR)
        self._failed = True
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
        try:
            async with asyncio.timeout(_EXIT_SECONDS):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        self._process = self._reader = self._writer = None


# Without TPM2_Shutdown(CLEAR), a guest's TPM2_Shutdown(STATE) would make the next
# start a TPM Restart, which keeps the seed of the NULL hierarchy.
_SHUTDOWN_CLEAR: Final = tpm.Command(
    tpm.CC_SHUTDOWN, parameters=struct.pack(">H", 0)
).encode()
_GET_MANUFACTURER: Final = tpm.Command(
    tpm.CC_GET_CAPABILITY, parameters=struct.pack(">III", 6, 0x105, 1)
).encode()


def _command_line(state: Path, fd: int) -> list[str]:
    swtpm = shutil.which("swtpm")
    if swtpm is None:
        raise VtpmError("swtpm is missing: install the package `swtpm`")
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    setpriv = shutil.which("setpriv")  # part of util-linux
    guard = [setpriv, "--pdeathsig", signal.Signals.SIGKILL.name[3:]] if setpriv else []
    return [
        *guard, swtpm, "socket", "--tpm2",
        "--fd", str(fd),
        "--tpmstate", f"dir={os.fspath(state)},mode=0600",
        "--flags", "not-need-init,startup-clear",
        "--log", f"file={os.fspath(state / 'swtpm.log')},level=1,truncate",
    ]  # fmt: skip
