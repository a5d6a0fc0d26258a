"""The vTPM as the guest sees it: a real TPM, and before it what Azure's paravisor adds.

Order of things for one command: it is cut into its parts, the indices that the front
hosts are answered here, everything else goes through the resource manager to swtpm.
One command at a time. Whatever bytes come in, bytes of a response go out.

Not here: sockets and who is who (`vtpm_sockets`), what the hosted indices hold
(`paravisor`).
"""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING, Final

from skragent.emulator.tpm import messages as tpm
from skragent.emulator.tpm.messages import Command, Response, TpmRefusal
from skragent.emulator.tpm.nv_indices import HostedIndex, HostedIndices
from skragent.emulator.tpm.resource_manager import ResourceManager, Space
from skragent.emulator.tpm.sessions import SessionLedger
from skragent.emulator.tpm.swtpm import SwtpmProcess, TpmFailureMode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_HT_SAVED_SESSION: Final = 0x03  # in a question about handles
# These would read the stand-in's eight bytes as if they were the index.
_REFUSED_ON_HOSTED: Final = frozenset(
    {tpm.CC_NV_CERTIFY, tpm.CC_POLICY_NV, tpm.CC_POLICY_AUTHORIZE_NV}
)
# The index is the platform's, and OWNERWRITE is clear. The TPM would say the same of
# the stand-in, but not within an HMAC session, which covers the Name.
_NOT_THE_OWNERS: Final = frozenset(
    {
        tpm.CC_NV_UNDEFINE_SPACE,
        tpm.CC_NV_INCREMENT,
        tpm.CC_NV_SET_BITS,
        tpm.CC_NV_EXTEND,
        tpm.CC_NV_WRITE,
        tpm.CC_NV_WRITE_LOCK,
    }
)


class Vtpm:
    """The TPM of one VM, for any number of clients."""

    def __init__(self, state: Path, *, deadline_seconds: float = 30.0) -> None:
        self.process = SwtpmProcess(state, deadline_seconds=deadline_seconds)
        # Each may refuse a client's command, by its code, before the TPM has it.
        self.guards: dict[str, Callable[[int], None]] = {}
        self._lock = asyncio.Lock()
        self._manager = ResourceManager(self.process.transmit)
        self._ledger = SessionLedger()
        self._hosted = HostedIndices(self._ledger)

    async def power_on(self) -> None:
        """Start the TPM; everything that was loaded in it is gone."""
        async with self._lock:
            await self.process.power_on()
            self._ledger.clear()
            await self._manager.reset()

    async def power_off(self) -> None:
        """Stop the TPM after the command that it may be at."""
        async with self._lock:
            await self.process.power_off()

    async def host(self, hosted: HostedIndex) -> None:
        """Answer for an NV index from now on; only before the guest runs."""
        async with self._lock:
            await self._hosted.host(hosted, self.process.transmit)

    async def give_up(self, index: int) -> bool:
        """Leave an NV index to the guest; only before it runs.

        Returns:
            Whether the index was the platform's until now: then it is gone.
        """
        async with self._lock:
            return await self._hosted.give_up(index, self.process.transmit)

    async def transmit(self, raw: bytes) -> bytes:
        """Send a command of the paravisor's own, past the guest's restrictions."""
        async with self._lock:
            return await self.process.transmit(raw)

    def open(self) -> Space:
        """Admit a client."""
        return self._manager.open()

    async def close(self, space: Space) -> None:
        """Let a client go, with all that it left."""
        async with self._lock:
            try:
                await self._manager.close(space)
            except TpmFailureMode:
                return  # nothing is loaded in a dead TPM

    async def execute(self, space: Space, raw: bytes) -> bytes:
        """Answer one command of a client; never raises for what the client sent."""
        async with self._lock:
            try:
                command = tpm.parse_command(raw, self._manager.attributes)
                for guard in self.guards.values():
                    guard(command.code)
                response = await self._answer(space, command)
            except TpmRefusal as refusal:
                response = Response(refusal.rc)
            except TpmFailureMode:
                response = Response(tpm.RC_FAILURE)
        return response.encode()

    async def _answer(self, space: Space, command: Command) -> Response:
        if command.code == tpm.CC_NV_READ and command.handles[1] in self._hosted:
            return await self._hosted.read(
                command, lambda stand_in: self._run(space, stand_in)
            )
        if any(handle in self._hosted for handle in command.handles):
            if command.code == tpm.CC_NV_READ_PUBLIC:
                return self._hosted.read_public(command)
            if command.code in _REFUSED_ON_HOSTED:
                raise TpmRefusal(tpm.RC_COMMAND_CODE)
            if command.handles[0] == tpm.RH_OWNER and command.code in _NOT_THE_OWNERS:
                raise TpmRefusal(tpm.RC_NV_AUTHORIZATION)
        if command.code == tpm.CC_GET_CAPABILITY and not command.authorizations:
            return await self._get_capability(space, command)
        return await self._run(space, command)

    async def _run(self, space: Space, command: Command) -> Response:
        response = await self._manager.run(space, command)
        self._ledger.note(command, response)
        return response

    async def _get_capability(self, space: Space, command: Command) -> Response:
        """Show a client its own transient objects and sessions, and no other's."""
        reader = tpm.Reader(command.parameters)
        capability, first, count = (reader.number(4) for _ in range(3))
        if capability != tpm.CAP_HANDLES:
            return await self._run(space, command)
        own = self._manager.own_handles(space, first)
        if own is not None:
            return _handle_list(own[:count], more=len(own) > count)
        response = await self._run(space, command)
        if tpm.handle_type(first) != _HT_SAVED_SESSION or response.rc:
            return response
        more, _, _, *handles = struct.unpack(
            f">BII{(len(response.parameters) - 9) // 4}I", response.parameters
        )
        saved = [handle for handle in handles if self._manager.is_ownerless(handle)]
        return _handle_list(saved, more=bool(more))


def _handle_list(handles: list[int], *, more: bool) -> Response:
    """Encode moreData and a TPMS_CAPABILITY_DATA with a TPML_HANDLE."""
    head = struct.pack(">BII", more, tpm.CAP_HANDLES, len(handles))
    return Response(
        tpm.RC_SUCCESS, None, head + struct.pack(f">{len(handles)}I", *handles)
    )
