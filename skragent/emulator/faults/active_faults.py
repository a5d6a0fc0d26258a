"""Apply and reset the faults of a running emulator.

await emulator.faults.apply("vault.status=503,retry_after=5,times=2")
await emulator.faults.reset()
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from skragent.emulator.faults.catalogue import parse
from skragent.emulator.faults.context import TPM_HINT, FaultContext
from skragent.emulator.faults.grammar import FaultError
from skragent.emulator.tpm.swtpm import TpmFailureMode

if TYPE_CHECKING:
    from skragent.emulator.emulator import Emulator


class Faults:
    """The faults of an emulator. Call the methods in the emulator's loop."""

    def __init__(self, emulator: Emulator) -> None:
        self._context = FaultContext(emulator)
        self._lock = asyncio.Lock()
        self._applied: list[str] = []

    @property
    def applied(self) -> list[str]:
        """The faults applied since the last reset, in order."""
        return list(self._applied)

    async def apply(self, text: str) -> None:
        """Apply a fault in addition to the active faults.

        The same fault with another value replaces the earlier one.

        Raises:
            FaultError: emulator.fault: the fault does not exist, its value is invalid,
                or this emulator does not support it. Nothing is changed.
        """
        fault, spec = parse(text)
        async with self._lock:
            try:
                await fault.apply(self._context, spec)
            except TpmFailureMode as error:
                raise FaultError("the TPM does not answer", hint=TPM_HINT) from error
            self._applied.append(text)

    async def reset(self) -> None:
        """Undo all faults and remove all hooks, mutations and guards.

        Past events stay, such as a reboot or a new signing key.
        """
        async with self._lock:
            self._applied.clear()
            await self._context.reset()
