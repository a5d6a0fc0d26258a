"""Read and set the TPM's protection against dictionary attacks.

TPM 2.0 Part 3, 25.3 (TPM2_DictionaryAttackParameters). A TPM that allows no failed
tries is in lockout at once.
"""

from __future__ import annotations

import struct
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Final

from skragent.emulator.faults.grammar import FaultError
from skragent.emulator.tpm import messages as tpm
from skragent.emulator.tpm.messages import Command

if TYPE_CHECKING:
    from skragent.emulator.tpm.resource_manager import Transmit

_CC_LOCK_RESET: Final = 0x139
_CC_PARAMETERS: Final = 0x13A
_RH_LOCKOUT: Final = 0x4000000A
_CAP_TPM_PROPERTIES: Final = 6
_PT_PERMANENT: Final = 0x200
_LOCKOUT_AUTH_SET: Final = 1 << 2
_PT_MAX_AUTH_FAIL: Final = 0x20F  # the first of three, in the order of Lockout


@dataclass(frozen=True, slots=True)
class Lockout:
    """The three parameters; times are in seconds."""

    max_tries: int
    recovery_time: int
    lockout_recovery: int


async def read(transmit: Transmit) -> Lockout:
    """Return the current parameters."""
    return Lockout(*await _properties(transmit, _PT_MAX_AUTH_FAIL, 3))


async def write(transmit: Transmit, lockout: Lockout) -> None:
    """Set the parameters and reset the count of failures.

    Raises:
        FaultError: the guest has set a secret for the lockout hierarchy. The emulator
            does not try a secret: a wrong one locks the hierarchy for 15 minutes.
    """
    (permanent,) = await _properties(transmit, _PT_PERMANENT, 1)
    if permanent & _LOCKOUT_AUTH_SET:
        raise FaultError(
            "the guest has set a secret for the vTPM's lockout hierarchy",
            hint="Remove the secret: `tpm2_changeauth -c lockout -p SECRET`.",
        )
    parameters = struct.pack(">III", *astuple(lockout))
    for code, body in ((_CC_PARAMETERS, parameters), (_CC_LOCK_RESET, b"")):
        await _run(transmit, Command(code, (_RH_LOCKOUT,), (tpm.PASSWORD,), body))


async def _properties(transmit: Transmit, first: int, count: int) -> tuple[int, ...]:
    question = struct.pack(">III", _CAP_TPM_PROPERTIES, first, count)
    parameters = await _run(
        transmit, Command(tpm.CC_GET_CAPABILITY, parameters=question)
    )
    # After moreData, capability and count: pairs of property and value.
    return struct.unpack_from(f">{2 * count}I", parameters, 9)[1::2]


async def _run(transmit: Transmit, command: Command) -> bytes:
    response = tpm.parse_response(await transmit(command.encode()))
    if response.rc != tpm.RC_SUCCESS:
        raise FaultError(f"the vTPM's lockout cannot be set: 0x{response.rc:03x}")
    return response.parameters
