"""Faults of the VM itself: reboots, PCRs, firmware, and what its vTPM says."""

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
from skragent.emulator.faults.grammar import Asked, FaultError, Value, choice, optional
from skragent.emulator.faults.tampering import flip
from skragent.emulator.tpm.messages import TpmRefusal

if TYPE_CHECKING:
    from skragent.emulator.faults.context import Site

# Where the parts of an HCL report lie: offset and size.
_PARTS: Final = {
    "magic": (0x000, 4),
    "measurement": (0x020 + 0x090, 48),
    "signature": (0x020 + 0x2A0, 48),  # R; the rest of its field is zeros
    "runtime_data": (0x4D4, 16),
}


@fault("vm", "reboot")
async def reboot(site: Site, asked: Asked) -> None:  # noqa: ARG001 - as all faults
    """The VM reboots: clients are cut, the NULL hierarchy has a new seed (event)."""
    await _reboot(site)


@fault("vm", "pcr", optional(grammar.PCR, 7))
async def pcr(site: Site, asked: Asked) -> None:
    """Something unlogged is measured into this PCR (7); the reset reboots the VM."""
    vm = site.vm()
    site.on_reset(vm.reboot, once="reboot")
    await vm.extend_pcr(asked.value, asked.text.encode())


@fault("vm", "lockout")
async def vm_lockout(site: Site, asked: Asked) -> None:  # noqa: ARG001 - as all faults
    """The vTPM is in lockout: what dictionary attacks could be made on is barred."""
    transmit = site.vm().vtpm.transmit
    before = await lockout.read(transmit)

    async def restore() -> None:
        await lockout.write(transmit, before)

    await lockout.write(transmit, replace(before, max_tries=0))
    site.on_reset(restore, once="lockout")


@fault(
    "vm",
    "rc",
    Value(grammar.RESPONSE_CODE),
    {"command": grammar.COMMAND_CODE, "times": grammar.NUMBER},
)
async def rc(site: Site, asked: Asked) -> None:
    """The vTPM answers with this code, such as 0x922, every command or only one."""
    guards = site.emulator.vm.vtpm.guards
    is_left = counter(asked)
    only = asked.options.get("command")

    def refuse(code: int) -> None:
        if only in (None, code) and is_left():
            raise TpmRefusal(asked.value)

    async def lift() -> None:
        guards.clear()

    site.on_reset(lift, once="rc")
    guards[f"{asked.name} {only}"] = refuse


@fault("vm", "hang")
async def hang(site: Site, asked: Asked) -> None:  # noqa: ARG001 - as all faults
    """The TPM does not answer, and gives up after 30 s; the reset reboots the VM."""
    pid = site.emulator.vm.vtpm.process.pid
    if pid is None:
        raise FaultError("the TPM is off")

    async def go_on() -> None:
        await _reboot(site)  # its failure mode would outlast the hang

    site.on_reset(go_on, once="hang")
    site.stopped_pid = pid
    os.kill(pid, signal.SIGSTOP)


async def _reboot(site: Site) -> None:
    vm = site.emulator.vm
    if vm.vtpm.process.pid == site.stopped_pid:  # it could not be ended in order
        with contextlib.suppress(ProcessLookupError):
            os.kill(site.stopped_pid, signal.SIGCONT)
    await vm.reboot()


@fault("vm", "ak_cert")
async def ak_cert(site: Site, asked: Asked) -> None:  # noqa: ARG001 - as all faults
    """The AK's certificate is not provisioned: its NV index was never written."""
    paravisor = site.vm().paravisor
    _restore_ak_certificate(site)
    await paravisor.set_ak_certificate(None)


@fault("vm", "ak_cert_days", Value(grammar.DAYS))
async def ak_cert_days(site: Site, asked: Asked) -> None:
    """The AK's certificate ends in so many days; below 0, it ended then."""
    paravisor = site.vm().paravisor
    _restore_ak_certificate(site)
    lifetime = timedelta(days=1 + asked.value)  # it begins yesterday
    now = site.emulator.azure.clock.utc()
    await paravisor.set_ak_certificate(paravisor.certify_ak(now, lifetime))


@fault("vm", "ak_cert_guests")
async def ak_cert_guests(site: Site, asked: Asked) -> None:  # noqa: ARG001 - as all faults
    """The AK certificate's NV index is the guest's, as on older VMs (it reboots)."""
    vm = site.vm()

    async def restore() -> None:
        vm.paravisor.owns_ak_certificate = True
        await vm.reboot()

    site.on_reset(restore, once="ak_cert_guests")
    vm.paravisor.owns_ak_certificate = False
    await vm.reboot()


def _restore_ak_certificate(site: Site) -> None:
    """See to it that the reset brings back the certificate as it is now."""
    paravisor = site.emulator.vm.paravisor
    before = paravisor.ak_certificate.rstrip(b"\0")

    async def restore() -> None:
        await paravisor.set_ak_certificate(before)

    site.on_reset(restore, once="ak_cert")


@fault("vm", "report", Value(choice(*_PARTS)))
async def report(site: Site, asked: Asked) -> None:
    """One bit of this part of the HCL report is wrong."""
    paravisor = site.vm().paravisor
    begin, size = _PARTS[asked.value]

    def spoil(whole: bytes) -> bytes:
        end = begin + size
        return whole[:begin] + flip(whole[begin:end]) + whole[end:]

    async def restore() -> None:
        paravisor.tamper = None
        await paravisor.refresh()

    site.on_reset(restore, once="report")
    paravisor.tamper = spoil
    await paravisor.refresh()


@fault("imds", "thim_lags")
async def thim_lags(site: Site, asked: Asked) -> None:
    """The chip's firmware is updated; THIM still gives the endorsements of before."""
    vm = site.vm()
    paravisor = vm.paravisor
    before = paravisor.chip
    endorsements = vm.thim_answer()

    async def restore() -> None:
        paravisor.chip = before
        await paravisor.refresh()

    site.mutate(asked, "thim", lambda _: endorsements)
    site.on_reset(restore)
    now = site.emulator.azure.clock.utc()
    paravisor.chip = before.update_firmware(now)
    await paravisor.refresh()
