"""A confidential VM's hardware side, whole: silicon, paravisor and vTPM in one object.

What the guest of an Azure SEV-SNP VM can reach: a TPM (`tcti`), the TCG log
(`tcg_log_path`) and, through IMDS, the endorsements of its chip (`thim_answer`). It
knows nothing of the web services around it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from skragent.emulator.paravisor import Paravisor
    from skragent.emulator.silicon import Generation, Silicon
    from skragent.emulator.vtpm_front import Vtpm


class ConfidentialVm:
    """One running VM. Everything that must survive its end lies in its directory."""

    directory: Path
    silicon: Silicon
    paravisor: Paravisor
    vtpm: Vtpm

    @classmethod
    async def start(
        cls,
        directory: Path,
        *,
        generation: Generation = "milan",
        vm_id: str | None = None,
        secure_boot: bool = True,
    ) -> ConfidentialVm:
        """Power the VM on; the first time in a directory also builds it.

        Args:
            directory: where its keys, its TPM's state and its sockets are. Made if
                missing. The path must be short enough for a Unix socket's address.
            generation: the AMD product that the report and its chain are of.
            vm_id: a GUID; by default the one of the last start, or a new one.
            secure_boot: what the TCG log and the runtime data say.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """Power off: the TPM's process has ended and the sockets are gone."""
        raise NotImplementedError

    @property
    def tcti(self) -> str:
        """The TPM's address for any TSS client."""
        raise NotImplementedError

    @property
    def vm_id(self) -> str:
        """The GUID in upper case, as the runtime data and IMDS have it."""
        raise NotImplementedError

    @property
    def ark_pem(self) -> str:
        """The root that vouches for the chip, to be trusted in AMD's place."""
        raise NotImplementedError

    @property
    def tcg_log_path(self) -> Path:
        """The log that replays to PCR 0 to 14 as they are after a boot."""
        raise NotImplementedError

    def thim_answer(self) -> dict[str, str]:
        """Give the members of IMDS's `/metadata/THIM/amd/certification`."""
        raise NotImplementedError

    async def extend_pcr(self, index: int, data: bytes) -> None:
        """Measure `data` into a PCR, as software after the boot does: unlogged."""
        raise NotImplementedError

    async def reboot(self) -> None:
        """Reset: clients are cut, PCRs replayed, the NULL hierarchy has a new seed."""
        raise NotImplementedError
