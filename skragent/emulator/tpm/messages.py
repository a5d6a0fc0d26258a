"""Encode and parse TPM 2.0 commands and responses.

TPM 2.0 Part 1, "Command/Response Structure"; the numbers are from Part 2. The module
names only the codes that the emulator handles. Other commands go to swtpm unchanged.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

HEADER_BYTES: Final = 10
MAX_COMMAND_BYTES: Final = 4096  # swtpm's TPM_PT_MAX_COMMAND_SIZE
MAX_RESPONSE_BYTES: Final = 4096

ST_NO_SESSIONS: Final = 0x8001
ST_SESSIONS: Final = 0x8002

CC_EVICT_CONTROL: Final = 0x120
CC_NV_UNDEFINE_SPACE: Final = 0x122
CC_HIERARCHY_CHANGE_AUTH: Final = 0x129
CC_NV_DEFINE_SPACE: Final = 0x12A
CC_PCR_ALLOCATE: Final = 0x12B
CC_CREATE_PRIMARY: Final = 0x131
CC_NV_INCREMENT: Final = 0x134
CC_NV_SET_BITS: Final = 0x135
CC_NV_EXTEND: Final = 0x136
CC_NV_WRITE: Final = 0x137
CC_NV_WRITE_LOCK: Final = 0x138
CC_SHUTDOWN: Final = 0x145
CC_POLICY_NV: Final = 0x149
CC_NV_READ: Final = 0x14E
CC_CONTEXT_LOAD: Final = 0x161
CC_CONTEXT_SAVE: Final = 0x162
CC_FLUSH_CONTEXT: Final = 0x165
CC_NV_READ_PUBLIC: Final = 0x169
CC_READ_PUBLIC: Final = 0x173
CC_START_AUTH_SESSION: Final = 0x176
CC_GET_CAPABILITY: Final = 0x17A
CC_PCR_EXTEND: Final = 0x182
CC_NV_CERTIFY: Final = 0x184
CC_POLICY_AUTHORIZE_NV: Final = 0x192

RC_SUCCESS: Final = 0
RC_BAD_TAG: Final = 0x01E
RC_FAILURE: Final = 0x101
RC_AUTH_TYPE: Final = 0x124
RC_AUTH_MISSING: Final = 0x125
RC_COMMAND_SIZE: Final = 0x142
RC_COMMAND_CODE: Final = 0x143
RC_AUTHSIZE: Final = 0x144
RC_AUTH_CONTEXT: Final = 0x145
RC_NV_RANGE: Final = 0x146
RC_NV_AUTHORIZATION: Final = 0x149
RC_NV_UNINITIALIZED: Final = 0x14A
RC_OBJECT_MEMORY: Final = 0x902
RC_SESSION_MEMORY: Final = 0x903
RC_REFERENCE_H0: Final = 0x910  # to 0x916: the position of the handle
RC_REFERENCE_S0: Final = 0x918  # to 0x91E: the position of the session
# Format-one codes; the response adds the handle, session or parameter number.
RC_ATTRIBUTES: Final = 0x082
RC_HANDLE: Final = 0x08B
RC_VALUE: Final = 0x084
RC_INSUFFICIENT: Final = 0x09A
RC_BAD_AUTH: Final = 0x0A2

CAP_HANDLES: Final = 1
CAP_COMMANDS: Final = 2
CAP_PCRS: Final = 5

ALG_SHA1: Final = 0x0004
ALG_SHA256: Final = 0x000B
HASHES: Final = {ALG_SHA1: "sha1", ALG_SHA256: "sha256", 0xC: "sha384", 0xD: "sha512"}

HT_HMAC_SESSION: Final = 0x02
HT_POLICY_SESSION: Final = 0x03
HT_TRANSIENT: Final = 0x80

RH_OWNER: Final = 0x40000001
RH_NULL: Final = 0x40000007
RS_PW: Final = 0x40000009
RH_ENDORSEMENT: Final = 0x4000000B
RH_PLATFORM: Final = 0x4000000C

SESSION_CONTINUE: Final = 0x01
_MAX_HANDLES = 3  # the maximum of all commands


class TpmRefusal(Exception):  # noqa: N818 - a response to the client, not a failure
    """The response to a command is this response code."""

    def __init__(self, rc: int) -> None:
        super().__init__(f"0x{rc:03x}")
        self.rc = rc


def at_session(rc: int, number: int) -> int:
    """Add a session's number (from 1) to a format-one code."""
    return rc | 0x800 | number << 8


def at_parameter(rc: int, number: int) -> int:
    """Add a parameter's number (from 1) to a format-one code."""
    return rc | 0x40 | number << 8


def handle_type(handle: int) -> int:
    """Return the TPM_HT of a handle."""
    return handle >> 24


def is_session(handle: int) -> bool:
    """Return whether a handle belongs to an HMAC or policy session."""
    return handle_type(handle) in (HT_HMAC_SESSION, HT_POLICY_SESSION)


@dataclass(frozen=True, slots=True)
class CommandAttributes:
    """The bits of TPMA_CC that describe a command's handles."""

    handles: int
    returns_handle: bool
    flushes: bool

    @classmethod
    def parse(cls, tpma_cc: int) -> CommandAttributes:
        """Parse a TPMA_CC (Part 2, 8.9)."""
        return cls(
            handles=min(tpma_cc >> 25 & 7, _MAX_HANDLES),
            returns_handle=bool(tpma_cc >> 28 & 1),
            flushes=bool(tpma_cc >> 24 & 1),
        )


@dataclass(frozen=True, slots=True)
class Authorization:
    """TPMS_AUTH_COMMAND, or TPMS_AUTH_RESPONSE if the handle is 0."""

    handle: int
    nonce: bytes
    attributes: int
    hmac: bytes

    def encode(self) -> bytes:
        """Encode for a command (with a handle) or for a response (without)."""
        head = struct.pack(">I", self.handle) if self.handle else b""
        return head + sized(self.nonce) + bytes([self.attributes]) + sized(self.hmac)


PASSWORD: Final = Authorization(RS_PW, b"", SESSION_CONTINUE, b"")


def password(value: bytes) -> Authorization:
    """Return an authorization with an authValue in the clear."""
    return Authorization(RS_PW, b"", SESSION_CONTINUE, value)


@dataclass(frozen=True, slots=True)
class Command:
    """A command as handles, authorizations and parameters."""

    code: int
    handles: tuple[int, ...] = ()
    authorizations: tuple[Authorization, ...] = ()
    parameters: bytes = b""

    def encode(self) -> bytes:
        """Encode the command."""
        body = b"".join(struct.pack(">I", handle) for handle in self.handles)
        if self.authorizations:
            area = b"".join(one.encode() for one in self.authorizations)
            body += struct.pack(">I", len(area)) + area
        tag = ST_SESSIONS if self.authorizations else ST_NO_SESSIONS
        body += self.parameters
        return struct.pack(">HII", tag, HEADER_BYTES + len(body), self.code) + body


@dataclass(frozen=True, slots=True)
class Response:
    """A response as handle, parameters and authorizations."""

    rc: int
    handle: int | None = None
    parameters: bytes = b""
    authorizations: tuple[Authorization, ...] = ()

    def encode(self) -> bytes:
        """Encode the response."""
        body = b"" if self.handle is None else struct.pack(">I", self.handle)
        if self.authorizations:
            body += struct.pack(">I", len(self.parameters)) + self.parameters
            body += b"".join(one.encode() for one in self.authorizations)
        else:
            body += self.parameters
        tag = ST_SESSIONS if self.authorizations else ST_NO_SESSIONS
        return struct.pack(">HII", tag, HEADER_BYTES + len(body), self.rc) + body


class Reader:
    """Reads values from bytes; raises `TpmRefusal(rc)` if the bytes end early."""

    def __init__(self, data: bytes, rc: int = RC_INSUFFICIENT) -> None:
        self._data = data
        self._offset = 0
        self._rc = rc

    def take(self, length: int) -> bytes:
        """Read `length` bytes."""
        end = self._offset + length
        if end > len(self._data):
            raise TpmRefusal(self._rc)
        taken = self._data[self._offset : end]
        self._offset = end
        return taken

    def number(self, length: int) -> int:
        """Read a big-endian number."""
        return int.from_bytes(self.take(length))

    def sized(self) -> bytes:
        """Read a TPM2B."""
        return self.take(self.number(2))

    def rest(self) -> bytes:
        """Read the remaining bytes."""
        return self.take(len(self._data) - self._offset)


def sized(data: bytes) -> bytes:
    """Encode a TPM2B."""
    return struct.pack(">H", len(data)) + data


def parse_command(raw: bytes, known: dict[int, CommandAttributes]) -> Command:
    """Parse a command; raise the `TpmRefusal` that the TPM would return."""
    reader = Reader(raw, RC_COMMAND_SIZE)
    tag, size, code = reader.number(2), reader.number(4), reader.number(4)
    if tag not in (ST_SESSIONS, ST_NO_SESSIONS):
        raise TpmRefusal(RC_BAD_TAG)
    if size != len(raw):
        raise TpmRefusal(RC_COMMAND_SIZE)
    attributes = known.get(code)
    if attributes is None:
        raise TpmRefusal(RC_COMMAND_CODE)
    reader = Reader(reader.rest(), RC_INSUFFICIENT)
    handles = tuple(reader.number(4) for _ in range(attributes.handles))
    if tag == ST_NO_SESSIONS:
        return Command(code, handles, (), reader.rest())
    reader = Reader(reader.rest(), RC_AUTHSIZE)
    area = Reader(reader.take(reader.number(4)), RC_AUTHSIZE)
    authorizations: list[Authorization] = []
    while left := area.rest():
        one = Reader(left, RC_AUTHSIZE)
        authorizations.append(
            Authorization(one.number(4), one.sized(), one.number(1), one.sized())
        )
        area = Reader(one.rest(), RC_AUTHSIZE)
    if not authorizations:
        raise TpmRefusal(RC_AUTHSIZE)
    return Command(code, handles, tuple(authorizations), reader.rest())


def parse_response(raw: bytes, *, has_handle: bool = False) -> Response:
    """Parse a response of swtpm, which is trusted to be well-formed."""
    tag, _, rc = struct.unpack_from(">HII", raw)
    if rc != RC_SUCCESS:
        return Response(rc)
    reader = Reader(raw[HEADER_BYTES:], RC_FAILURE)
    handle = reader.number(4) if has_handle else None
    if tag == ST_NO_SESSIONS:
        return Response(rc, handle, reader.rest())
    parameters = reader.take(reader.number(4))
    authorizations: list[Authorization] = []
    while left := reader.rest():
        reader = Reader(left, RC_FAILURE)
        authorizations.append(
            Authorization(0, reader.sized(), reader.number(1), reader.sized())
        )
    return Response(rc, handle, parameters, tuple(authorizations))


def name_of(public_area: bytes) -> bytes:
    """Compute a SHA-256 Name (Part 1, "Names")."""
    return struct.pack(">H", ALG_SHA256) + hashlib.sha256(public_area).digest()
