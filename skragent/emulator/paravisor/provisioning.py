"""The paravisor's TPM commands: create keys, extend PCRs, read the user data.

The templates are OpenHCL's. Those of EK and SRK are the L-1 template of TCG's "EK
Credential Profile" and the template of its "Provisioning Guidance". The module encodes
commands itself: the emulator does not use a TSS.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from skragent.emulator.tpm import messages as tpm
from skragent.emulator.tpm.messages import Command, Response
from skragent.emulator.tpm.swtpm import VtpmError

if TYPE_CHECKING:
    from skragent.emulator.paravisor.tcg_log import Event
    from skragent.emulator.tpm.resource_manager import Transmit

AK_HANDLE: Final = 0x81000003
_SRK_HANDLE: Final = 0x81000001
_EK_HANDLE: Final = 0x81010001
_USER_DATA_INDEX: Final = 0x01400002
USER_DATA_BYTES: Final = 64
# TPMA_NV: OWNERREAD, OWNERWRITE, AUTHREAD, AUTHWRITE.
_GUESTS_INDEX: Final = 0x00060006
_NV_CHUNK_BYTES: Final = 1024

_ALG_RSA: Final = 0x0001
_RSA_2048: Final = struct.pack(">HI", 2048, 0)  # keyBits, exponent 0: 65537
_NO_SYMMETRIC: Final = struct.pack(">H", 0x0010)
_AES_128_CFB: Final = struct.pack(">HHH", 0x0006, 128, 0x0043)
_RSASSA_SHA256: Final = struct.pack(">HH", 0x0014, tpm.ALG_SHA256)
_NO_SCHEME: Final = _NO_SYMMETRIC
# PolicySecret(TPM_RH_ENDORSEMENT): "EK Credential Profile", B.6.2.
_EK_POLICY: Final = bytes.fromhex(
    "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"
)
# TPML_PCR_SELECTION: all PCRs in SHA-1 and SHA-256, none in SHA-384 and SHA-512.
_BANKS: Final = bytes.fromhex(
    "00000004 000403ffffff 000b03ffffff 000c03000000 000d03000000"
)


@dataclass(frozen=True, slots=True)
class _Key:
    """A primary key that is created once and made persistent."""

    handle: int
    hierarchy: int
    attributes: int
    policy: bytes
    parameters: bytes
    unique: bytes

    @property
    def public(self) -> bytes:
        head = struct.pack(">HHI", _ALG_RSA, tpm.ALG_SHA256, self.attributes)
        return head + tpm.sized(self.policy) + self.parameters + tpm.sized(self.unique)


_AK: Final = _Key(
    AK_HANDLE,
    tpm.RH_ENDORSEMENT,
    0x00050472,  # fixedTPM, created in the TPM, userWithAuth, noDA, restricted, sign
    b"",
    _NO_SYMMETRIC + _RSASSA_SHA256 + _RSA_2048,
    b"",
)
_SRK: Final = _Key(
    _SRK_HANDLE,
    tpm.RH_OWNER,
    0x00030472,  # as the AK, with decrypt in place of sign
    b"",
    _AES_128_CFB + _NO_SCHEME + _RSA_2048,
    bytes(256),
)
_EK: Final = _Key(
    _EK_HANDLE,
    tpm.RH_ENDORSEMENT,
    0x000300B2,  # fixedTPM, created in the TPM, adminWithPolicy, restricted, decrypt
    _EK_POLICY,
    _AES_128_CFB + _NO_SCHEME + _RSA_2048,
    bytes(256),
)


@dataclass(frozen=True, slots=True)
class TpmKeys:
    """The public keys in the runtime data; `ak_public` is a TPM2B_PUBLIC."""

    ak_public: bytes
    ak_modulus: int
    ek_modulus: int


async def provision(transmit: Transmit) -> TpmKeys:
    """Return the public keys of EK and AK; create missing keys."""
    publics = [await _persist(transmit, key) for key in (_EK, _SRK, _AK)]
    ek, _, ak = publics
    # In an RSA TPMT_PUBLIC the modulus comes last.
    return TpmKeys(ak, int.from_bytes(ak[-256:]), int.from_bytes(ek[-256:]))


async def allocate_banks(transmit: Transmit) -> bool:
    """Allocate only SHA-1 and SHA-256 PCRs, the banks of the log.

    Returns:
        Whether the allocation changed; a change takes effect at the next start.
    """
    question = Command(
        tpm.CC_GET_CAPABILITY, parameters=struct.pack(">III", tpm.CAP_PCRS, 0, 16)
    )
    response = await _run(transmit, question)
    present = response.parameters[5:]  # past moreData and the capability
    if present == _BANKS:
        return False
    await _run(
        transmit,
        Command(tpm.CC_PCR_ALLOCATE, (tpm.RH_PLATFORM,), (tpm.PASSWORD,), _BANKS),
    )
    return True


async def lock_platform(transmit: Transmit) -> None:
    """Set a secret for the platform hierarchy until the next boot, as firmware does."""
    secret = tpm.sized(secrets.token_bytes(32))
    await _run(
        transmit,
        Command(
            tpm.CC_HIERARCHY_CHANGE_AUTH, (tpm.RH_PLATFORM,), (tpm.PASSWORD,), secret
        ),
    )


async def extend(
    transmit: Transmit, pcr: int, digests: tuple[tuple[int, bytes], ...]
) -> None:
    """Extend a PCR in every bank."""
    values = struct.pack(">I", len(digests))
    values += b"".join(struct.pack(">H", alg) + digest for alg, digest in digests)
    await _run(transmit, Command(tpm.CC_PCR_EXTEND, (pcr,), (tpm.PASSWORD,), values))


async def replay(transmit: Transmit, events: list[Event]) -> None:
    """Extend the PCRs with the events of the log."""
    for event in events:
        await extend(transmit, event.pcr, event.digests)


def digests_of(data: bytes) -> tuple[tuple[int, bytes], ...]:
    """Return the digests of data for both banks."""
    return (
        (tpm.ALG_SHA1, hashlib.sha1(data, usedforsecurity=False).digest()),
        (tpm.ALG_SHA256, hashlib.sha256(data).digest()),
    )


async def read_user_data(transmit: Transmit) -> bytes:
    """Read the guest's user data; return zeros if it has written none."""
    read = Command(
        tpm.CC_NV_READ,
        (tpm.RH_OWNER, _USER_DATA_INDEX),
        (tpm.PASSWORD,),
        struct.pack(">HH", USER_DATA_BYTES, 0),
    )
    response = tpm.parse_response(await transmit(read.encode()))
    if response.rc != tpm.RC_SUCCESS:
        return bytes(USER_DATA_BYTES)
    return tpm.Reader(response.parameters).sized()


async def write_guests_index(
    transmit: Transmit, index: int, data: bytes | None
) -> None:
    """Define an NV index of the owner with the size of the data; None: one byte.

    An existing index is removed. The guest may read, write, undefine and define it.
    """
    undefine = Command(tpm.CC_NV_UNDEFINE_SPACE, (tpm.RH_OWNER, index), (tpm.PASSWORD,))
    await transmit(undefine.encode())
    public = struct.pack(
        ">IHIHH", index, tpm.ALG_SHA256, _GUESTS_INDEX, 0, len(data or b"0")
    )
    parameters = tpm.sized(b"") + tpm.sized(public)
    await _run(
        transmit,
        Command(tpm.CC_NV_DEFINE_SPACE, (tpm.RH_OWNER,), (tpm.PASSWORD,), parameters),
    )
    for offset in range(0, len(data or b""), _NV_CHUNK_BYTES):
        chunk = (data or b"")[offset : offset + _NV_CHUNK_BYTES]
        parameters = tpm.sized(chunk) + struct.pack(">H", offset)
        handles = (tpm.RH_OWNER, index)
        await _run(
            transmit,
            Command(tpm.CC_NV_WRITE, handles, (tpm.PASSWORD,), parameters),
        )


async def _persist(transmit: Transmit, key: _Key) -> bytes:
    """Return a key's TPM2B_PUBLIC; create a missing key and make it persistent."""
    read = Command(tpm.CC_READ_PUBLIC, (key.handle,)).encode()
    response = tpm.parse_response(await transmit(read))
    if response.rc != tpm.RC_SUCCESS:
        created = await _run(
            transmit,
            Command(
                tpm.CC_CREATE_PRIMARY,
                (key.hierarchy,),
                (tpm.PASSWORD,),
                # TPM2B_SENSITIVE_CREATE (empty), template, outsideInfo, creationPCR.
                tpm.sized(bytes(4)) + tpm.sized(key.public) + bytes(2) + bytes(4),
            ),
            has_handle=True,
        )
        handle = created.handle or 0
        persistent = struct.pack(">I", key.handle)
        for command in (
            Command(
                tpm.CC_EVICT_CONTROL,
                (tpm.RH_OWNER, handle),
                (tpm.PASSWORD,),
                persistent,
            ),
            Command(tpm.CC_FLUSH_CONTEXT, parameters=struct.pack(">I", handle)),
        ):
            await _run(transmit, command)
        response = await _run(transmit, Command(tpm.CC_READ_PUBLIC, (key.handle,)))
    return tpm.sized(tpm.Reader(response.parameters).sized())


async def _run(
    transmit: Transmit, command: Command, *, has_handle: bool = False
) -> Response:
    raw = await transmit(command.encode())
    response = tpm.parse_response(raw, has_handle=has_handle)
    if response.rc != tpm.RC_SUCCESS:
        raise VtpmError(
            "the vTPM refused a command that its paravisor sends at every boot:"
            f" command 0x{command.code:03x}, response 0x{response.rc:03x}"
        )
    return response
