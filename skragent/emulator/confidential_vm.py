"""A confidential VM's hardware side, whole: chip, paravisor and vTPM in one object.

What the guest of an Azure SEV-SNP VM can reach: a TPM (`tcti`), the TCG log
(`tcg_log_path`) and, through IMDS, the endorsements of its chip (`thim_answer`). It
knows nothing of the web services around it.
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
    return datetime.now(UTC)  # noqa: TID251 - the emulated world's clock: who wants another gives it


class ConfidentialVm:
    """One running VM. Everything that must survive its end lies in its directory."""

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
        """Power the VM on; the first time in a directory also builds it.

        Args:
            directory: where its keys, its TPM's state and its sockets are. Made if
                missing. The path must be short enough for a Unix socket's address.
            generation: the AMD product that the report and its chain are of.
            vm_id: a GUID; by default the one of the last start, or a new one.
            secure_boot: what the TCG log and the runtime data say.
            now: for the certificates' lifetimes.
            monotonic: for the age of the HCL report, in seconds.

        Raises:
            VtpmError: there is no swtpm, or it does not start, or the path is too long.
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
        """Power off: the TPM's process has ended and the sockets are gone."""
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
        """The GUID in upper case, as the runtime data and IMDS have it."""
        return self.paravisor.vm_id

    @property
    def ark_pem(self) -> str:
        """The root that vouches for the chip, to be trusted in AMD's place."""
        return self.chip.ark_pem

    @property
    def tcg_log_path(self) -> Path:
        """The log that replays to the PCRs as they are after a boot."""
        return self.paravisor.tcg_log_path

    def thim_answer(self) -> dict[str, str]:
        """Give the members of IMDS's `/metadata/THIM/amd/certification`."""
        return self.chip.thim_answer()

    def renew_ak_certificate(
        self, certificate: x509.Certificate
    ) -> x509.Certificate | None:
        """Certify the AK anew; None where that certificate is not of this VM's AK."""
        if not self.paravisor.is_of_ak(certificate):
            return None
        der = self.paravisor.certify_ak(self._now())
        return x509.load_der_x509_certificate(der)

    async def extend_pcr(self, index: int, data: bytes) -> None:
        """Measure `data` into a PCR, as software after the boot does: unlogged."""
        digests = provisioning.digests_of(data)
        await provisioning.extend(self.vtpm.transmit, index, digests)

    async def reboot(self) -> None:
        """Reset: clients are cut, PCRs replayed, the NULL hierarchy has a new seed."""
        await self._sockets.close()
        await self.vtpm.power_off()
        await self.vtpm.power_on()
        await self._boot()

    async def _boot(self) -> None:
        """Boot, and only then let clients in; a failure leaves no process behind."""
        try:
            if await provisioning.allocate_banks(self.vtpm.transmit):
                await self.vtpm.power_off()  # a new allocation begins at a reset
                await self.vtpm.power_on()
            await self.paravisor.boot(self._now())
            await self._sockets.listen()
        except BaseException:
            await self.close()
            raise


async def _power_on(
    vtpm: Vtpm, directory: Path, generation: Generation, now: Clock
) -> Chip:
    """Start the TPM, whose lock on its state is the whole directory's, and the chip."""
    await vtpm.power_on()
    try:
        home = directory / f"chip-{generation}"
        return await Chip.load_or_mint(home, generation, now=now())
    except BaseException:
        await vtpm.power_off()
        raise


def _prepare(directory: Path, vm_id: str | None) -> tuple[Path, str]:
    """Make the directory, by a path that holds anywhere; settle which VM this is."""
    directory = directory.absolute()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / "vm-id"
    if vm_id is None and path.exists():
        return directory, path.read_text(encoding="ascii").strip()
    identity = str(uuid.UUID(vm_id) if vm_id else uuid.uuid4()).upper()
    path.write_text(f"{identity}\n", encoding="ascii")
    return directory, identity
