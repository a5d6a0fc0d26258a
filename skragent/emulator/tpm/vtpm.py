"""The vTPM as the guest sees it: swtpm, and the functions of Azure's paravisor.

For each command, the module parses it, answers it if it concerns an index that the
emulator serves, and otherwise passes it through the resource manager to swtpm. One
command runs at a time. Any input yields a well-formed response.

`sockets.py` handles the sockets and clients; `paravisor/` fills the indices.
"""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING, Final

from skragent.emulator.tpm import messages as tpm
from skragent.emulator.tpm.messages import Command, Response, TpmRefusal
from skragent.emulator.tpm.nv_indices import HostedIndex, HostedIndices
from skragent.emulator.tpm.resource_manager import ResourceManager, Space
from skragent.emulator.tpm.sessions import SessionTable
from skragent.emulator.tpm.swtpm import SwtpmProcess, TpmFailureMode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_HT_SAVED_SESSION: Final = 0x03  # in TPM2_GetCapability
# These commands would use the stand-in's eight bytes in place of the index.
_REFUSED_ON_HOSTED: Final = frozenset(
    {tpm.CC_NV_CERTIFY, tpm.CC_POLICY_NV, tpm.CC_POLICY_AUTHORIZE_NV}
)
# The platform owns the index, and OWNERWRITE is clear. swtpm would refuse the stand-in
# in the same way, but not within an HMAC session, which covers the Name.
_REFUSED_TO_OWNER: Final = frozenset(
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
        # Each may refuse a client's command by its code, before swtpm runs it.
        self.guards: dict[str, Callable[[int], None]] = {}
        self._lock = asyncio.Lock()
        self._manager = ResourceManager(self.process.transmit)
        self._sessions_table = SessionTable()
        self._hosted = HostedIndices(self._sessions_table)

    async def power_on(self) -> None:
        """Start the TPM; nothing is loaded in it."""
        async with self._lock:
            await self.process.power_on()
            self._sessions_table.clear()
            await self._manager.reset()

    async def power_off(self) -> None:
        """Stop the TPM after its current command."""
        async with self._lock:
            await self.process.power_off()

    async def host(self, hosted: HostedIndex) -> None:
        """Begin to serve an NV index; call before the guest runs."""
        async with self._lock:
            await self._hosted.host(hosted, self.process.transmit)

    async def leave_to_guest(self, index: int) -> bool:
        """Leave an NV index to the guest; call before the guest runs.

        Returns:
            Whether the platform owned the index until now and so undefined it.
        """
        async with self._lock:
            return await self._hosted.leave_to_guest(index, self.process.transmit)

    async def transmit(self, raw: bytes) -> bytes:
        """Send a command of the paravisor, without the guest's restrictions."""
        async with self._lock:
            return await self.process.transmit(raw)

    def open(self) -> Space:
        """Add a client."""
        return self._manager.open()

    async def close(self, space: Space) -> None:
        """Remove a client and flush its objects and sessions."""
        async with self._lock:
            try:
                await self._manager.close(space)
            except TpmFailureMode:
                return  # a failed TPM has nothing loaded

    async def execute(self, space: Space, raw: bytes) -> bytes:
        """Return the response to a client's command; never raise for its content."""
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
            if command.handles[0] == tpm.RH_OWNER and command.code in _REFUSED_TO_OWNER:
                raise TpmRefusal(tpm.RC_NV_AUTHORIZATION)
        if command.code == tpm.CC_GET_CAPABILITY and not command.authorizations:
            return await self._get_capability(space, command)
        return await self._run(space, command)

    async def _run(self, space: Space, command: Command) -> Response:
        response = await self._manager.run(space, command)
        self._sessions_table.note(command, response)
        return response

    async def _get_capability(self, space: Space, command: Command) -> Response:
        """List only the client's own transient objects and sessions."""
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
