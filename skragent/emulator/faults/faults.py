"""The faults of one running emulator: apply one, see which there are, reset all.

await emulator.faults.apply("vault.status=503,retry_after=5,times=2")
await emulator.faults.reset()
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from skragent.emulator.faults.catalogue import parse
from skragent.emulator.faults.context import TPM_HINT, Site
from skragent.emulator.faults.grammar import FaultError
from skragent.emulator.tpm.swtpm import TpmFailureMode

if TYPE_CHECKING:
    from skragent.emulator.emulator import Emulator


class Faults:
    """What is broken on purpose. Call it in the emulator's own loop."""

    def __init__(self, emulator: Emulator) -> None:
        self._site = Site(emulator)
        self._lock = asyncio.Lock()
        self._applied: list[str] = []

    @property
    def applied(self) -> list[str]:
        """What was applied since the last reset, in order."""
        return list(self._applied)

    async def apply(self, text: str) -> None:
        """Apply one fault, beside those that there are.

        The same fault again, with another value, takes the earlier one's place.

        Raises:
            FaultError: emulator.fault: there is none of that name, its value is
                wrong, or this emulator cannot have it. Nothing has changed then.
        """
        fault, asked = parse(text)
        async with self._lock:
            try:
                await fault.apply(self._site, asked)
            except TpmFailureMode as error:
                raise FaultError("the TPM does not answer", hint=TPM_HINT) from error
            self._applied.append(text)

    async def reset(self) -> None:
        """Make the world whole again: all faults, and whatever tests have put in.

        What has happened stays so: a VM that rebooted, a signing key that is new.
        """
        async with self._lock:
            self._applied.clear()
            await self._site.reset()
