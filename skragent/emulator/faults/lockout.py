"""The TPM's protection against dictionary attacks: reading and setting it.

TPM 2.0 Part 3, 25.3 (TPM2_DictionaryAttackParameters). With no tries at all a TPM is in
lockout at once, by its own rules.
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
_PT_MAX_AUTH_FAIL: Final = 0x20F  # and the two after it, in the order below


@dataclass(frozen=True, slots=True)
class Lockout:
    """The three parameters; times in seconds."""

    max_tries: int
    recovery_time: int
    lockout_recovery: int


async def read(transmit: Transmit) -> Lockout:
    """Read what is set."""
    return Lockout(*await _properties(transmit, _PT_MAX_AUTH_FAIL, 3))


async def write(transmit: Transmit, lockout: Lockout) -> None:
    """Set the parameters, and forget the failures so far.

    Raises:
        FaultError: the guest has given the lockout hierarchy a secret. It is not even
            tried then: one wrong secret locks that hierarchy, for a quarter of an hour.
    """
    (permanent,) = await _properties(transmit, _PT_PERMANENT, 1)
    if permanent & _LOCKOUT_AUTH_SET:
        raise FaultError(
            "the vTPM's lockout is the guest's: it has a secret",
            hint="`tpm2_changeauth -c lockout -p SECRET` takes it away.",
        )
    parameters = struct.pack(">III", *astuple(lockout))
    for code, body in ((_CC_PARAMETERS, parameters), (_CC_LOCK_RESET, b"")):
        await _run(transmit, Command(code, (_RH_LOCKOUT,), (tpm.PASSWORD,), body))


async def _properties(transmit: Transmit, first: int, count: int) -> tuple[int, ...]:
    question = struct.pack(">III", _CAP_TPM_PROPERTIES, first, count)
    parameters = await _run(
        transmit, Command(tpm.CC_GET_CAPABILITY, parameters=question)
    )
    # moreData, capability and count; then pairs of property and value.
    return struct.unpack_from(f">{2 * count}I", parameters, 9)[1::2]


async def _run(transmit: Transmit, command: Command) -> bytes:
    response = tpm.parse_response(await transmit(command.encode()))
    if response.rc != tpm.RC_SUCCESS:
        raise FaultError(f"the vTPM's lockout cannot be set: 0x{response.rc:03x}")
    return response.parameters
