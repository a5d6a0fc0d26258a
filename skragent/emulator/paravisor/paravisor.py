"""OpenHCL's part: it sets up the vTPM and passes the hardware report to the guest.

At boot it provisions the TPM, measures the boot and lets the chip sign a report over
its runtime data. When the guest reads NV 0x01400001 from offset 0 and the report is
older than two seconds, it makes a new report with the contents of NV 0x01400002. It
returns a younger report again, without an error: a client that wrote its user data a
moment ago reads a stale report, as on Azure.

The paravisor owns the index of the AK certificate, or the guest does, as on older VMs.
A guest's index receives its certificate once. A certificate that the guest deletes is
not restored by a reboot.

Tests may set `chip`, `header_version` and `tamper` before a refresh,
`owns_ak_certificate` before a boot, and `ak_certificate_extra_bytes` at any time.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric import rsa

from skragent.emulator.paravisor import provisioning
from skragent.emulator.paravisor.hcl_report import (
    NV_REPORT_BYTES,
    HeaderVersion,
    RuntimeData,
    encode_hcl_report,
    report_data,
)
from skragent.emulator.paravisor.tcg_log import boot_events, encode_log
from skragent.emulator.paravisor.tpm_ca import LIFETIME, VirtualTpmCa
from skragent.emulator.tpm.nv_indices import HostedIndex

if TYPE_CHECKING:
    from datetime import datetime, timedelta
    from pathlib import Path

    from cryptography import x509

    from skragent.emulator.amd.chip import Chip
    from skragent.emulator.tpm.resource_manager import Transmit
    from skragent.emulator.tpm.vtpm import Vtpm

NV_REPORT: Final = 0x01400001
NV_AK_CERTIFICATE: Final = 0x01C101D0
_AK_CERTIFICATE_BYTES: Final = 4096  # the index: DER, padded with zeros
_REPORT_TIMER_SECONDS: Final = 2.0  # OpenHCL: REPORT_TIMER_PERIOD

Tamper = Callable[[bytes], bytes]


class Paravisor:
    """The layer between one VM's guest and its hardware."""

    def __init__(
        self,
        directory: Path,
        vtpm: Vtpm,
        chip: Chip,
        *,
        vm_id: str,
        secure_boot: bool,
        monotonic: Callable[[], float],
    ) -> None:
        self.chip = chip
        self.header_version: HeaderVersion = 2
        self.tamper: Tamper | None = None  # applied to each new HCL report
        self.owns_ak_certificate = True
        # Azure's certificates have more extensions, and so are longer.
        self.ak_certificate_extra_bytes = 0
        self.vm_id = vm_id
        self.tcg_log_path = directory / "binary_bios_measurements"
        self._report_path = directory / "hcl-report.bin"
        self._ca_path = directory / "vtpm-ca-key.pem"
        self._vtpm = vtpm
        self._monotonic = monotonic
        self._secure_boot = secure_boot
        self._events = boot_events(secure_boot=secure_boot)
        self._report = HostedIndex(
            NV_REPORT, NV_REPORT_BYTES, refresh=self._refresh_on_read
        )
        self._ak_certificate = HostedIndex(NV_AK_CERTIFICATE, _AK_CERTIFICATE_BYTES)
        self._keys: provisioning.TpmKeys | None = None
        self._ca: VirtualTpmCa | None = None
        self._generated_at = 0.0

    async def boot(self, now: datetime) -> None:
        """Do all steps before the guest's first instruction."""
        transmit = self._vtpm.transmit
        await self._vtpm.host(self._report)
        is_provisioned = False
        if self.owns_ak_certificate:
            await self._vtpm.host(self._ak_certificate)
        else:
            is_given = await self._vtpm.leave_to_guest(NV_AK_CERTIFICATE)
            is_provisioned = self._ca is not None and not is_given
        self._keys = await provisioning.provision(transmit)
        await provisioning.replay(transmit, self._events)
        await provisioning.lock_platform(transmit)
        _write_atomically(self.tcg_log_path, encode_log(self._events))
        self._ca = await asyncio.to_thread(VirtualTpmCa.load_or_mint, self._ca_path)
        if not is_provisioned:
            await self.set_ak_certificate(self.certify_ak(now))
        await self._generate(transmit)

    @property
    def hcl_report(self) -> bytes:
        """The current HCL report."""
        return self._report.data or b""

    @property
    def ak_certificate(self) -> bytes:
        """The last contents of the AK certificate's index: DER and zeros."""
        return self._ak_certificate.data or b""

    @property
    def ak_public(self) -> bytes:
        """The AK's TPM2B_PUBLIC."""
        return self._provisioned.ak_public

    async def set_ak_certificate(self, der: bytes | None) -> None:
        """Write a certificate into its index; None: not provisioned yet (0x14A)."""
        padded = None if der is None else der.ljust(_AK_CERTIFICATE_BYTES, b"\0")
        self._ak_certificate.data = padded
        if not self.owns_ak_certificate:
            transmit, index = self._vtpm.transmit, NV_AK_CERTIFICATE
            await provisioning.write_guests_index(transmit, index, der)

    def certify_ak(self, now: datetime, lifetime: timedelta = LIFETIME) -> bytes:
        """Let the CA certify the AK; return the certificate in DER."""
        if self._ca is None:
            raise RuntimeError("the VM has not booted")
        return self._ca.certify(
            self._provisioned.ak_modulus,
            now,
            lifetime,
            extra_bytes=self.ak_certificate_extra_bytes,
        )

    def is_of_ak(self, certificate: x509.Certificate) -> bool:
        """Return whether a certificate is for this VM's AK."""
        key = certificate.public_key()
        return (
            isinstance(key, rsa.RSAPublicKey)
            and key.public_numbers().n == self._provisioned.ak_modulus
        )

    async def refresh(self) -> None:
        """Make a new report now, regardless of the age of the last report."""
        await self._generate(self._vtpm.transmit)

    @property
    def _provisioned(self) -> provisioning.TpmKeys:
        if self._keys is None:
            raise RuntimeError("the VM has not booted")
        return self._keys

    async def _refresh_on_read(self) -> None:
        if self._monotonic() - self._generated_at > _REPORT_TIMER_SECONDS:
            # The emulator is answering NV_Read and holds the TPM's lock.
            await self._generate(self._vtpm.process.transmit)

    async def _generate(self, transmit: Transmit) -> None:
        claims = RuntimeData(
            ak_modulus=self._provisioned.ak_modulus,
            ek_modulus=self._provisioned.ek_modulus,
            vm_id=self.vm_id,
            secure_boot=self._secure_boot,
            user_data=await provisioning.read_user_data(transmit),
        ).encode()
        hardware_report = self.chip.attest(report_data(claims))
        report = encode_hcl_report(hardware_report, claims, version=self.header_version)
        self._report.data = self.tamper(report) if self.tamper else report
        self._generated_at = self._monotonic()
        _write_atomically(self._report_path, self._report.data)


def _write_atomically(path: Path, content: bytes) -> None:
    """Replace a file atomically."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    os.replace(temporary, path)  # noqa: PTH105 - mkstemp returns a string
