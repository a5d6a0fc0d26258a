"""The hardware of a confidential VM: chip, paravisor and vTPM in one object.

This is the part of an Azure SEV-SNP VM that its guest can reach: a TPM (`tcti`), the
TCG log (`tcg_log_path`) and, through IMDS, the endorsements of the chip. The module
does not depend on the emulated services.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

from cryptography import x509

from skragent.emulator.amd.chip import Chip
from skragent.emulator.paravisor import provisioning
from skragent.emulator.paravisor.paravisor import Paravisor
from skragent.emulator.tpm.sockets import VtpmSockets
from skragent.emulator.tpm.vtpm import Vtpm

if TYPE_CHECKING:
    from pathlib import Path

    from skragent.emulator.amd.snp_report import Generation

Clock = Callable[[], datetime]


def _wall_clock() -> datetime:
    return datetime.now(UTC)  # noqa: TID251 - the default clock; callers can pass their own


class ConfidentialVm:
    """A running VM. Its directory keeps everything that must outlive it."""

    def __init__(
        self, *, paravisor: Paravisor, vtpm: Vtpm, sockets: VtpmSockets, now: Clock
    ) -> None:
        self.paravisor = paravisor
        self.vtpm = vtpm
        self._sockets = sockets
        self._now = now

    @classmethod
    async def start(
        cls,
        directory: Path,
        *,
        generation: Generation = "milan",
        vm_id: str | None = None,
        secure_boot: bool = True,
        now: Clock = _wall_clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> Self:
        """Power on the VM; the first start in a directory also creates its keys.

        Args:
            directory: holds the keys, the TPM's state and the sockets. It is created if
                missing. Its path must be short enough for a Unix socket's address.
            generation: the AMD product of the chip.
            vm_id: a GUID; the default is the GUID of the last start, or a new GUID.
            secure_boot: the Secure Boot state in the TCG log and the runtime data.
            now: the clock for lifetimes of certificates.
            monotonic: the clock for the age of the HCL report, in seconds.

        Raises:
            VtpmError: swtpm is missing or does not start, or the path is too long.
        """
        directory, identity = _prepare(directory, vm_id)
        vtpm = Vtpm(directory / "swtpm")
        sockets = VtpmSockets(vtpm, directory / "tpm.sock")
        chip = await _power_on(vtpm, directory, generation, now)
        paravisor = Paravisor(
            directory,
            vtpm,
            chip,
            vm_id=identity,
            secure_boot=secure_boot,
            monotonic=monotonic,
        )
        vm = cls(paravisor=paravisor, vtpm=vtpm, sockets=sockets, now=now)
        await vm._boot()
        return vm

    async def close(self) -> None:
        """Power off: end the TPM's process and remove the sockets."""
        await self._sockets.close()
        await self.vtpm.power_off()

    @property
    def tcti(self) -> str:
        """The TPM's address for any TSS client."""
        return f"swtpm:path={self._sockets.path}"

    @property
    def chip(self) -> Chip:
        """The chip that the VM runs on."""
        return self.paravisor.chip

    @property
    def vm_id(self) -> str:
        """The GUID in upper case, as in the runtime data and in IMDS."""
        return self.paravisor.vm_id

    @property
    def ark_pem(self) -> str:
        """The root certificate of the chip, to be trusted in place of AMD's root."""
        return self.chip.ark_pem

    @property
    def tcg_log_path(self) -> Path:
        """The TCG log, which replays to the PCR values after a boot."""
        return self.paravisor.tcg_log_path

    def thim_certification(self) -> dict[str, str]:
        """Return the members of IMDS's `/metadata/THIM/amd/certification`."""
        return self.chip.thim_certification()

    def renew_ak_certificate(
        self, certificate: x509.Certificate
    ) -> x509.Certificate | None:
        """Certify the AK again; None if the certificate is for another key."""
        if not self.paravisor.is_of_ak(certificate):
            return None
        der = self.paravisor.certify_ak(self._now())
        return x509.load_der_x509_certificate(der)

    async def extend_pcr(self, index: int, data: bytes) -> None:
        """Extend a PCR without a log entry, as software after the boot can."""
        digests = provisioning.digests_of(data)
        await provisioning.extend(self.vtpm.transmit, index, digests)

    async def reboot(self) -> None:
        """Reset the VM: disconnect clients, replay PCRs, renew the NULL hierarchy."""
        await self._sockets.close()
        await self.vtpm.power_off()
        await self.vtpm.power_on()
        await self._boot()

    async def _boot(self) -> None:
        """Boot, then accept clients; a failed boot leaves no process running."""
        try:
            if await provisioning.allocate_banks(self.vtpm.transmit):
                await self.vtpm.power_off()  # a new allocation takes effect at a reset
                await self.vtpm.power_on()
            await self.paravisor.boot(self._now())
            await self._sockets.listen()
        except BaseException:
            await self.close()
            raise


async def _power_on(
    vtpm: Vtpm, directory: Path, generation: Generation, now: Clock
) -> Chip:
    """Start the TPM and load the chip. The TPM locks its state directory."""
    await vtpm.power_on()
    try:
        home = directory / f"chip-{generation}"
        return await Chip.load_or_mint(home, generation, now=now())
    except BaseException:
        await vtpm.power_off()
        raise


def _prepare(directory: Path, vm_id: str | None) -> tuple[Path, str]:
    """Create the directory and return its absolute path and the VM's GUID."""
    directory = directory.absolute()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / "vm-id"
    if vm_id is None and path.exists():
        return directory, path.read_text(encoding="ascii").strip()
    identity = str(uuid.UUID(vm_id) if vm_id else uuid.uuid4()).upper()
    path.write_text(f"{identity}\n", encoding="ascii")
    return directory, identity
