"""NV indices that the emulator serves itself: libtpms caps an index at 2048 bytes.

Azure's HCL report has 2600 bytes and the index of its AK certificate 4096. For each
index, swtpm has a stand-in: a platform-created index of a few bytes at the same
handle. swtpm lists it, protects it from being written, defined or undefined, and
decides on read access. The emulator replaces only the public area and the data.

Attributes and the secret authValue are those of OpenHCL: PLATFORMCREATE, AUTHREAD,
AUTHWRITE, OWNERREAD, NO_DA. So only the owner can read, and no guest can write.

Within HMAC sessions, reading works if the session is unsalted and unbound, the owner's
authValue is empty and no parameter is encrypted, as with tpm2-tools. Other HMAC
sessions are refused (TPM_RC_AUTH_TYPE, TPM_RC_ATTRIBUTES). Passwords and policies
always work.
"""

from __future__ import annotations

import hmac
import secrets
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from skragent.emulator.tpm import messages as tpm
from skragent.emulator.tpm.messages import Command, Response, TpmRefusal
from skragent.emulator.tpm.sessions import (
    OpenSession,
    SessionTable,
    sign_command,
    sign_response,
)

if TYPE_CHECKING:
    from skragent.emulator.tpm.resource_manager import Transmit

_ATTRIBUTES: Final = 0x42060004
_WRITTEN: Final = 0x20000000
_PLATFORM_CREATE: Final = 0x40000000
_STAND_IN_BYTES: Final = 8
_MAX_NV_BUFFER: Final = 1024  # TPM_PT_NV_BUFFER_MAX
_PARAMETER_SESSION: Final = 0xE0  # decrypt, encrypt or audit

Run = Callable[[Command], Awaitable[Response]]


@dataclass(slots=True)
class HostedIndex:
    """A large index as the guest sees it."""

    index: int
    size: int
    data: bytes | None = None  # None: not written yet
    # Called when an authorized client begins to read, at offset 0.
    refresh: Callable[[], Awaitable[None]] | None = None

    @property
    def public(self) -> bytes:
        """TPMS_NV_PUBLIC."""
        written = 0 if self.data is None else _WRITTEN
        return _nv_public(self.index, _ATTRIBUTES | written, self.size)


class HostedIndices:
    """The large indices, and the responses to commands about them."""

    def __init__(self, ledger: SessionTable) -> None:
        self._indices: dict[int, HostedIndex] = {}
        self._sessions_table = ledger

    def __contains__(self, handle: int) -> bool:
        return handle in self._indices

    async def host(self, hosted: HostedIndex, transmit: Transmit) -> None:
        """Begin to serve an index; platformAuth must still be empty."""
        self._indices[hosted.index] = hosted
        if (found := await _attributes(hosted.index, transmit)) is not None:
            if found & _PLATFORM_CREATE:
                return  # created at an earlier start
            await _undefine(hosted.index, transmit)
        secret = secrets.token_bytes(8)  # as OpenHCL: a random u64, never disclosed
        public = _stand_in_public(hosted.index, 0)
        define = Command(
            tpm.CC_NV_DEFINE_SPACE,
            (tpm.RH_PLATFORM,),
            (tpm.PASSWORD,),
            tpm.sized(secret) + tpm.sized(public),
        )
        write = Command(
            tpm.CC_NV_WRITE,
            (hosted.index, hosted.index),
            (tpm.password(secret),),
            tpm.sized(bytes(_STAND_IN_BYTES)) + struct.pack(">H", 0),
        )
        for command in (define, write):
            await _run(command, transmit)

    async def leave_to_guest(self, index: int, transmit: Transmit) -> bool:
        """Leave an index to the guest; platformAuth must still be empty.

        Returns:
            Whether the platform owned the index until now and so undefined it.
        """
        self._indices.pop(index, None)
        found = await _attributes(index, transmit)
        if found is None or not found & _PLATFORM_CREATE:
            return False
        await _undefine(index, transmit)
        return True

    def read_public(self, command: Command) -> Response:
        """Return the response to TPM2_NV_ReadPublic."""
        if command.authorizations:  # an audit session's HMAC would not match
            raise TpmRefusal(tpm.RC_AUTH_CONTEXT)
        public = self._indices[command.handles[0]].public
        return Response(
            tpm.RC_SUCCESS,
            parameters=tpm.sized(public) + tpm.sized(tpm.name_of(public)),
        )

    async def read(self, command: Command, run: Run) -> Response:
        """Return the response to TPM2_NV_Read.

        Args:
            command: the client's command.
            run: sends the command for the stand-in in the client's name.
        """
        hosted = self._indices[command.handles[1]]
        if not command.authorizations:
            raise TpmRefusal(tpm.RC_AUTH_MISSING)
        reader = tpm.Reader(command.parameters)
        size, offset = reader.number(2), reader.number(2)
        # Check before authorization: a failed command must not change the nonces.
        _check_range(hosted, size, offset)
        stand_in, session = self._stand_in(command, hosted)
        response = await run(stand_in)
        if response.rc != tpm.RC_SUCCESS:
            return response
        if offset == 0 and hosted.refresh is not None:
            await hosted.refresh()
        parameters = tpm.sized((hosted.data or b"")[offset : offset + size])
        received = response.authorizations[0]
        if session is not None:
            hashed = struct.pack(">II", tpm.RC_SUCCESS, command.code) + parameters
            signature = sign_response(
                session, command.authorizations[0], received, hashed
            )
            received = replace(received, hmac=signature)
        return Response(tpm.RC_SUCCESS, None, parameters, (received,))

    def _stand_in(
        self, command: Command, hosted: HostedIndex
    ) -> tuple[Command, OpenSession | None]:
        """Turn a read of the index into an empty read of its stand-in."""
        first, *more = command.authorizations
        if more or first.attributes & _PARAMETER_SESSION:
            raise TpmRefusal(tpm.at_session(tpm.RC_ATTRIBUTES, 2 if more else 1))
        stand_in = replace(command, parameters=bytes(4))  # size 0, offset 0
        is_policy = tpm.handle_type(first.handle) == tpm.HT_POLICY_SESSION
        if first.handle == tpm.RS_PW or (is_policy and not first.hmac):
            return stand_in, None
        session = self._sessions_table.find(first.handle)
        if session is None:
            raise TpmRefusal(tpm.RC_AUTH_TYPE)
        asked = sign_command(session, first, command, _names(command, hosted.public))
        if not hmac.compare_digest(asked, first.hmac):
            raise TpmRefusal(tpm.at_session(tpm.RC_BAD_AUTH, 1))
        names = _names(command, _stand_in_public(hosted.index, _WRITTEN))
        signed = replace(first, hmac=sign_command(session, first, stand_in, names))
        return replace(stand_in, authorizations=(signed,)), session


async def _attributes(index: int, transmit: Transmit) -> int | None:
    """Return the TPMA_NV of the index in swtpm; None if it is not defined."""
    probe = Command(tpm.CC_NV_READ_PUBLIC, (index,))
    response = tpm.parse_response(await transmit(probe.encode()))
    if response.rc != tpm.RC_SUCCESS:
        return None
    return int.from_bytes(tpm.Reader(response.parameters).sized()[6:10], "big")


async def _undefine(index: int, transmit: Transmit) -> None:
    handles = (tpm.RH_PLATFORM, index)
    await _run(Command(tpm.CC_NV_UNDEFINE_SPACE, handles, (tpm.PASSWORD,)), transmit)


async def _run(command: Command, transmit: Transmit) -> None:
    response = tpm.parse_response(await transmit(command.encode()))
    if response.rc != tpm.RC_SUCCESS:
        raise TpmRefusal(response.rc)


def _check_range(hosted: HostedIndex, size: int, offset: int) -> None:
    """Refuse the ranges that TPM2_NV_Read refuses (Part 3, 31.13)."""
    if hosted.data is None:
        raise TpmRefusal(tpm.RC_NV_UNINITIALIZED)
    if size > _MAX_NV_BUFFER:
        raise TpmRefusal(tpm.at_parameter(tpm.RC_VALUE, 1))
    if offset > hosted.size:
        raise TpmRefusal(tpm.at_parameter(tpm.RC_VALUE, 2))
    if offset + size > hosted.size:
        raise TpmRefusal(tpm.RC_NV_RANGE)


def _names(command: Command, public: bytes) -> tuple[bytes, bytes]:
    """Return the Names of authHandle and nvIndex, which the HMAC covers."""
    name = tpm.name_of(public)
    authorizer, index = command.handles
    return (name if authorizer == index else struct.pack(">I", authorizer)), name


def _stand_in_public(index: int, written: int) -> bytes:
    return _nv_public(index, _ATTRIBUTES | written, _STAND_IN_BYTES)


def _nv_public(index: int, attributes: int, size: int) -> bytes:
    return struct.pack(">IHIHH", index, tpm.ALG_SHA256, attributes, 0, size)
