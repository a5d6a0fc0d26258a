"""Faults of the VM: reboots, PCRs, firmware, vTPM."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from skragent.emulator.faults import grammar, lockout
from skragent.emulator.faults.catalogue import fault
from skragent.emulator.faults.context import counter
from skragent.emulator.faults.grammar import (
    FaultError,
    FaultSpec,
    Value,
    choice,
    optional,
)
from skragent.emulator.faults.tampering import flip
from skragent.emulator.tpm.messages import TpmRefusal

if TYPE_CHECKING:
    from skragent.emulator.faults.context import FaultContext

# The parts of an HCL report: offset and size.
_PARTS: Final = {
    "magic": (0x000, 4),
    "measurement": (0x020 + 0x090, 48),
    "signature": (0x020 + 0x2A0, 48),  # R; zeros follow
    "runtime_data": (0x4D4, 16),
}


@fault("vm", "reboot")
async def reboot(context: FaultContext, spec: FaultSpec) -> None:  # noqa: ARG001 - the signature of faults
    """The VM reboots: clients are disconnected, the NULL hierarchy is new (event)."""
    await _reboot(context)


@fault("vm", "pcr", optional(grammar.PCR, 7))
async def pcr(context: FaultContext, spec: FaultSpec) -> None:
    """An unlogged measurement extends this PCR (7); the reset reboots the VM."""
    vm = context.vm()
    context.on_reset(vm.reboot, once="reboot")
    await vm.extend_pcr(spec.value, spec.text.encode())


@fault("vm", "lockout")
async def vm_lockout(context: FaultContext, spec: FaultSpec) -> None:  # noqa: ARG001 - the signature of faults
    """The vTPM is in lockout: objects with dictionary attack protection are blocked."""
    transmit = context.vm().vtpm.transmit
    before = await lockout.read(transmit)

    async def restore() -> None:
        await lockout.write(transmit, before)

    await lockout.write(transmit, replace(before, max_tries=0))
    context.on_reset(restore, once="lockout")


@fault(
    "vm",
    "rc",
    Value(grammar.RESPONSE_CODE),
    {"command": grammar.COMMAND_CODE, "times": grammar.NUMBER},
)
async def rc(context: FaultContext, spec: FaultSpec) -> None:
    """The vTPM answers every command, or one command, with this code, such as 0x922."""
    guards = context.emulator.vm.vtpm.guards
    is_left = counter(spec)
    only = spec.options.get("command")

    def refuse(code: int) -> None:
        if only in (None, code) and is_left():
            raise TpmRefusal(spec.value)

    async def restore() -> None:
        guards.clear()

    context.on_reset(restore, once="rc")
    guards[f"{spec.name} {only}"] = refuse


@fault("vm", "hang")
async def hang(context: FaultContext, spec: FaultSpec) -> None:  # noqa: ARG001 - the signature of faults
    """The TPM does not answer and fails after 30 s; the reset reboots the VM."""
    pid = context.emulator.vm.vtpm.process.pid
    if pid is None:
        raise FaultError("the TPM is off")

    async def restore() -> None:
        await _reboot(context)  # otherwise the TPM would stay in failure mode

    context.on_reset(restore, once="hang")
    context.stopped_pid = pid
    os.kill(pid, signal.SIGSTOP)


async def _reboot(context: FaultContext) -> None:
    vm = context.emulator.vm
    if vm.vtpm.process.pid == context.stopped_pid:  # a stopped process cannot end
        with contextlib.suppress(ProcessLookupError):
            os.kill(context.stopped_pid, signal.SIGCONT)
    await vm.reboot()


@fault("vm", "ak_cert")
async def ak_cert(context: FaultContext, spec: FaultSpec) -> None:  # noqa: ARG001 - the signature of faults
    """The AK certificate is not provisioned: its NV index was never written."""
    paravisor = context.vm().paravisor
    _restore_ak_certificate(context)
    await paravisor.set_ak_certificate(None)


@fault("vm", "ak_cert_days", Value(grammar.DAYS))
async def ak_cert_days(context: FaultContext, spec: FaultSpec) -> None:
    """The AK certificate expires in this many days; a negative number: it expired."""
    paravisor = context.vm().paravisor
    _restore_ak_certificate(context)
    lifetime = timedelta(days=1 + spec.value)  # the lifetime starts yesterday
    now = context.emulator.azure.clock.utc()
    await paravisor.set_ak_certificate(paravisor.certify_ak(now, lifetime))


@fault("vm", "ak_cert_guests")
async def ak_cert_guests(context: FaultContext, spec: FaultSpec) -> None:  # noqa: ARG001 - the signature of faults
    """The guest owns the AK certificate's NV index, as on older VMs (reboots)."""
    vm = context.vm()

    async def restore() -> None:
        vm.paravisor.owns_ak_certificate = True
        await vm.reboot()

    context.on_reset(restore, once="ak_cert_guests")
    vm.paravisor.owns_ak_certificate = False
    await vm.reboot()


def _restore_ak_certificate(context: FaultContext) -> None:
    """Register a reset step that restores the current certificate."""
    paravisor = context.emulator.vm.paravisor
    before = paravisor.ak_certificate.rstrip(b"\0")

    async def restore() -> None:
        await paravisor.set_ak_certificate(before)

    context.on_reset(restore, once="ak_cert")


@fault("vm", "report", Value(choice(*_PARTS)))
async def report(context: FaultContext, spec: FaultSpec) -> None:
    """One bit of this part of the HCL report is flipped."""
    paravisor = context.vm().paravisor
    begin, size = _PARTS[spec.value]

    def spoil(whole: bytes) -> bytes:
        end = begin + size
        return whole[:begin] + flip(whole[begin:end]) + whole[end:]

    async def restore() -> None:
        paravisor.tamper = None
        await paravisor.refresh()

    context.on_reset(restore, once="report")
    paravisor.tamper = spoil
    await paravisor.refresh()


@fault("imds", "thim_lags")
async def thim_lags(context: FaultContext, spec: FaultSpec) -> None:
    """The chip's firmware is updated; THIM still returns the old endorsements."""
    vm = context.vm()
    paravisor = vm.paravisor
    before = paravisor.chip
    endorsements = vm.thim_certification()

    async def restore() -> None:
        paravisor.chip = before
        await paravisor.refresh()

    context.mutate(spec, "thim", lambda _: endorsements)
    context.on_reset(restore)
    now = context.emulator.azure.clock.utc()
    paravisor.chip = before.update_firmware(now)
    await paravisor.refresh()
