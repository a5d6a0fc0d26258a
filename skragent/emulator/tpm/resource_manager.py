"""The resource manager: gives each client its own handles and swaps objects.

It works like the kernel's /dev/tpmrm0 (drivers/char/tpm/tpm2-space.c). A client sees
virtual handles of its transient objects and only its own sessions, and its objects are
flushed when it disconnects. There are two differences:

- Objects are swapped out only if another command finds no free slot
  (TPM_RC_OBJECT_MEMORY, TPM_RC_SESSION_MEMORY), the least recently used first.
- A client may have more objects than the TPM has slots, because a client is a process
  and may have several TSS contexts (`sockets.py`).

The caller holds a lock: one command at a time runs, for all clients together.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Final

from skragent.emulator.tpm import messages as tpm
from skragent.emulator.tpm.messages import Command, Response, TpmRefusal

Transmit = Callable[[bytes], Awaitable[bytes]]

MAX_OBJECTS: Final = 64  # per client
_FIRST_VIRTUAL: Final = 0x80FFFFFF  # then downwards, as the kernel does


@dataclass(slots=True, eq=False)
class _Slot:
    """An object or session, loaded (`physical`) or swapped out (`context`)."""

    physical: int
    context: bytes | None = None

    @property
    def is_session(self) -> bool:
        return tpm.is_session(self.physical)


@dataclass(slots=True, eq=False)
class Space:
    """The objects and sessions of one client."""

    objects: dict[int, _Slot] = field(default_factory=dict)  # by virtual handle
    sessions: dict[int, _Slot] = field(default_factory=dict)
    has_gone: bool = False

    def find(self, handle: int) -> _Slot | None:
        """Return the slot of a client's handle."""
        if tpm.is_session(handle):
            return self.sessions.get(handle)
        return self.objects.get(handle)

    def forget(self, slot: _Slot) -> None:
        """Remove a slot from both tables."""
        for table in (self.objects, self.sessions):
            for handle in [key for key, value in table.items() if value is slot]:
                del table[handle]

    def add_object(self, slot: _Slot) -> int:
        """Add an object under the first free virtual handle."""
        handle = _FIRST_VIRTUAL
        while handle in self.objects:
            handle -= 1
        self.objects[handle] = slot
        return handle


class ResourceManager:
    """Runs the commands of many clients on a TPM with few slots."""

    def __init__(self, transmit: Transmit) -> None:
        self.attributes: dict[int, tpm.CommandAttributes] = {}
        self._transmit = transmit
        self._spaces: list[Space] = []
        self._resident: dict[_Slot, Space] = {}  # loaded; the last used comes last

    async def reset(self) -> None:
        """Start again after a TPM reset, which unloads everything."""
        for space in self._spaces:
            space.objects.clear()
            space.sessions.clear()
        self._resident.clear()
        request = Command(
            tpm.CC_GET_CAPABILITY,
            parameters=struct.pack(">III", tpm.CAP_COMMANDS, 0, 512),
        )
        response = tpm.parse_response(await self._transmit(request.encode()))
        values = struct.iter_unpack(">I", response.parameters[9:])
        # TPMA_CC holds the command's index and the vendor bit.
        self.attributes = {
            value & 0x2000FFFF: tpm.CommandAttributes.parse(value)
            for (value,) in values
        }

    def open(self) -> Space:
        """Add a client."""
        space = Space()
        self._spaces.append(space)
        return space

    async def close(self, space: Space) -> None:
        """Remove a client and flush its objects and sessions."""
        self._spaces.remove(space)
        space.has_gone = True
        for slot in [*space.objects.values(), *space.sessions.values()]:
            # A saved object exists only in our memory, a saved session also in the TPM.
            if slot.context is None or slot.is_session:
                await self._flush(slot)
        space.objects.clear()
        space.sessions.clear()

    async def run(self, space: Space, command: Command) -> Response:
        """Run a command of a client; it uses the client's handles in both directions.

        Raises:
            TpmRefusal: a handle is unknown to this client, or the client has too many.
        """
        if space.has_gone:  # the command arrived after the disconnect: load nothing
            raise TpmRefusal(tpm.RC_FAILURE)
        if command.code == tpm.CC_FLUSH_CONTEXT:
            return await self._run_flush(space, command)
        attributes = self.attributes[command.code]
        if attributes.returns_handle and len(space.objects) >= MAX_OBJECTS:
            raise TpmRefusal(tpm.RC_OBJECT_MEMORY)
        slots = self._slots(space, command)
        pinned = set(slots.values())
        for position, slot in slots.items():
            await self._load(space, slot, pinned, position)
        handles = tuple(
            found.physical if (found := space.find(handle)) else handle
            for handle in command.handles
        )
        raw = await self._send(replace(command, handles=handles).encode(), pinned)
        response = tpm.parse_response(raw, has_handle=attributes.returns_handle)
        if response.rc == tpm.RC_SUCCESS:
            self._note_endings(space, command, response)
            if response.handle is not None:
                return replace(response, handle=self._claim(space, response.handle))
        return response

    def own_handles(self, space: Space, first: int) -> list[int] | None:
        """List the client's handles of the type of `first`; None: the TPM knows."""
        kind = tpm.handle_type(first)
        if kind == tpm.HT_TRANSIENT:
            handles = sorted(space.objects)
        elif kind == tpm.HT_HMAC_SESSION:  # in TPM2_GetCapability: loaded sessions
            handles = sorted(space.sessions)
        else:
            return None
        return [handle for handle in handles if handle >= first]

    def is_ownerless(self, session: int) -> bool:
        """Return whether no connected client has this session."""
        index = session & 0xFFFFFF  # a list of saved sessions has the HMAC type
        return not any(
            one & 0xFFFFFF == index for space in self._spaces for one in space.sessions
        )

    def _slots(self, space: Space, command: Command) -> dict[int, _Slot]:
        """Return the slots that a command uses, by the code for a missing slot."""
        named = {
            tpm.RC_REFERENCE_H0 + place: handle
            for place, handle in enumerate(command.handles)
        } | {
            tpm.RC_REFERENCE_S0 + place: one.handle
            for place, one in enumerate(command.authorizations)
        }
        slots: dict[int, _Slot] = {}
        for refusal, handle in named.items():
            if handle_needs_slot(handle):
                slot = space.find(handle)
                if slot is None:
                    raise TpmRefusal(refusal)
                slots[refusal] = slot
        return slots

    async def _load(
        self, space: Space, slot: _Slot, pinned: set[_Slot], refusal: int
    ) -> None:
        if slot.context is not None:
            request = Command(tpm.CC_CONTEXT_LOAD, parameters=slot.context)
            raw = await self._send(request.encode(), pinned)
            response = tpm.parse_response(raw, has_handle=True)
            if response.handle is None:  # flushed by another command: TPM2_Clear
                space.forget(slot)
                raise TpmRefusal(refusal)
            self._displace(response.handle, slot)
            slot.physical, slot.context = response.handle, None
        self._resident.pop(slot, None)
        self._resident[slot] = space

    async def _send(self, raw: bytes, pinned: set[_Slot]) -> bytes:
        """Send a command, evicting slots until the TPM has memory for it."""
        while True:
            response = await self._transmit(raw)
            (rc,) = struct.unpack_from(">I", response, 6)
            if rc not in (tpm.RC_OBJECT_MEMORY, tpm.RC_SESSION_MEMORY):
                return response
            wants_session = rc == tpm.RC_SESSION_MEMORY
            evicted = next(
                (
                    slot
                    for slot in self._resident
                    if slot not in pinned and slot.is_session == wants_session
                ),
                None,
            )
            if evicted is None:
                return response
            await self._evict(evicted)

    async def _evict(self, slot: _Slot) -> None:
        """Swap a slot out; a slot that cannot be saved is lost."""
        space = self._resident.pop(slot)
        request = Command(tpm.CC_CONTEXT_SAVE, (slot.physical,))
        response = tpm.parse_response(await self._transmit(request.encode()))
        if response.rc != tpm.RC_SUCCESS:
            space.forget(slot)
            await self._flush(slot)
            return
        slot.context = response.parameters
        if not slot.is_session:  # saving unloads a session, but not an object
            await self._flush(slot)

    async def _flush(self, slot: _Slot) -> None:
        self._resident.pop(slot, None)
        request = Command(
            tpm.CC_FLUSH_CONTEXT, parameters=struct.pack(">I", slot.physical)
        )
        await self._transmit(request.encode())

    async def _run_flush(self, space: Space, command: Command) -> Response:
        """Run TPM2_FlushContext, whose handle is a parameter (Part 3, 28.4)."""
        handle = tpm.Reader(command.parameters).number(4)
        slot = space.find(handle)
        if slot is None:
            # A session without a client was saved to a file; any client may flush it.
            is_free = tpm.is_session(handle) and self.is_ownerless(handle)
            if handle_needs_slot(handle) and not is_free:
                raise TpmRefusal(tpm.at_parameter(tpm.RC_HANDLE, 1))
            return tpm.parse_response(await self._transmit(command.encode()))
        if slot.context is None or slot.is_session:
            await self._flush(slot)
        space.forget(slot)
        return Response(tpm.RC_SUCCESS)

    def _note_endings(self, space: Space, command: Command, response: Response) -> None:
        """Forget the slots that the command removed from the TPM."""
        ended = [
            sent.handle
            for sent, received in zip(
                command.authorizations, response.authorizations, strict=False
            )
            if not received.attributes & tpm.SESSION_CONTINUE
        ]
        if self.attributes[command.code].flushes:  # the command completed a sequence
            ended += [one for one in command.handles if one in space.objects]
        if command.code == tpm.CC_CONTEXT_SAVE and tpm.is_session(command.handles[0]):
            ended.append(command.handles[0])  # the client keeps the saved context
        for handle in ended:
            slot = space.find(handle)
            if slot is not None:
                self._resident.pop(slot, None)
                space.forget(slot)

    def _claim(self, space: Space, physical: int) -> int:
        """Record a handle that the TPM has loaded, and return the client's handle."""
        self._displace(physical)
        slot = _Slot(physical)
        self._resident[slot] = space
        if slot.is_session:
            space.sessions[physical] = slot
            return physical
        if tpm.handle_type(physical) == tpm.HT_TRANSIENT:
            return space.add_object(slot)
        del self._resident[slot]
        return physical

    def _displace(self, physical: int, by: _Slot | None = None) -> None:
        """Forget other slots with a handle that the TPM has assigned again."""
        for space in self._spaces:
            for slot in [*space.objects.values(), *space.sessions.values()]:
                # The handle of a saved object is free; that of a saved session is not.
                is_stale = slot.context is None or slot.is_session
                if slot is not by and slot.physical == physical and is_stale:
                    self._resident.pop(slot, None)
                    space.forget(slot)


def handle_needs_slot(handle: int) -> bool:
    """Return whether a handle names an object or session that must be loaded."""
    return tpm.is_session(handle) or tpm.handle_type(handle) == tpm.HT_TRANSIENT
