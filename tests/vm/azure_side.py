"""The host's side of the VM: its hardware, and the emulated Azure.

The VM's TPM is a plain swtpm, which supports no index above 2048 bytes. So its HCL
report has version 1, with the AK alone, and is written once, before the VM's first
boot. The web services listen on two Unix sockets; QEMU forwards the guest's connections
to them (`machine.py`).
"""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from support.azure import bind_unix

from skragent.emulator import addresses
from skragent.emulator.amd.chip import Chip
from skragent.emulator.azure import Azure, Settings
from skragent.emulator.encoding import base64url, dump_json
from skragent.emulator.keyvault.key_changes import add_version
from skragent.emulator.keyvault.key_material import create_material, kind_of
from skragent.emulator.keyvault.key_specs import parse_key_spec
from skragent.emulator.keyvault.key_store import KeyVersion
from skragent.emulator.keyvault.vault import Vault
from skragent.emulator.paravisor import provisioning
from skragent.emulator.paravisor.hcl_report import (
    RuntimeData,
    encode_hcl_report,
    report_data,
)
from skragent.emulator.paravisor.paravisor import NV_AK_CERTIFICATE, NV_REPORT
from skragent.emulator.paravisor.tpm_ca import VirtualTpmCa
from skragent.emulator.thread import LoopThread
from skragent.emulator.tpm.swtpm import SwtpmProcess

_INDEX_BYTES = 2048  # the largest that libtpms defines
VAULT = addresses.VaultPlan("skragent-demo")


@dataclass(frozen=True, slots=True)
class Hardware:
    """The chip, the identity and the vTPM CA of this VM."""

    vm_id: str
    chip: Chip
    ca: VirtualTpmCa
    ak_modulus: int

    @property
    def ark_pem(self) -> str:
        return self.chip.ark_pem

    def thim_certification(self) -> dict[str, str]:
        return self.chip.thim_certification()

    def renew_ak_certificate(
        self, certificate: x509.Certificate
    ) -> x509.Certificate | None:
        key = certificate.public_key()
        if (
            not isinstance(key, rsa.RSAPublicKey)
            or key.public_numbers().n != self.ak_modulus
        ):
            return None
        return x509.load_der_x509_certificate(self.ca.certify(self.ak_modulus, _now()))


class AzureSide:
    """All services that the guest reaches, in an event loop of their own."""

    def __init__(self, directory: Path, azure: Azure, hardware: Hardware) -> None:
        self.azure = azure
        self.hardware = hardware
        self.imds_socket, self.tls_socket = _socket_paths(directory)

    @classmethod
    async def start(cls, directory: Path, kept: Path) -> AzureSide:
        """Make the VM's TPM state in `directory / "tpm"`, and start the services.

        Later runs use the keys in `kept` again, because minting AMD's keys takes
        seconds.
        """
        hardware = await _provision(directory / "tpm", kept)
        imds, tls = (bind_unix(path) for path in _socket_paths(directory))
        settings = Settings(real_names=True, sockets=(imds, tls), vaults=(VAULT,))
        return cls(
            directory, await Azure.start(directory, hardware, settings), hardware
        )

    async def close(self) -> None:
        await self.azure.close()

    @property
    def vault(self) -> Vault:
        return self.azure.vaults[VAULT.name]

    def latest(self, name: str) -> KeyVersion:
        """Return the key version that the vault would release."""
        return self.versions(name)[-1]

    def versions(self, name: str) -> list[KeyVersion]:
        key = self.vault.store.find(name)
        assert key is not None
        return key.versions

    async def create_key(self, spec: str) -> None:
        """Create an exportable key that this VM's attestation releases."""
        wanted = parse_key_spec(spec)
        policy = {"data": base64url(dump_json(self.azure.cvm_policy()))}
        body = {"attributes": {"exportable": True}, "release_policy": policy}
        material = await asyncio.to_thread(create_material, wanted.parameters)
        self._add(wanted.name, body, material)

    async def rotate(self, name: str) -> None:
        """Add a version of the same kind to the key."""
        kind = kind_of(self.latest(name).material)
        self._add(name, {}, await asyncio.to_thread(create_material, kind))

    def _add(self, name: str, body: dict[str, object], material: object) -> None:
        store = self.vault.store
        now = self.azure.clock.now()
        key = add_version(
            store.find(name),
            name,
            body,
            material,  # type: ignore[arg-type]
            is_hsm_key=True,
            now=now,
        )
        store.save(key)

    def log(self) -> str:
        """List all requests, as a help to find out why a scenario failed."""
        return "".join(
            f"{r.began:.3f} {r.ended - r.began:.3f}s {r.service} {r.method}"
            f" {r.target.partition('?')[0]} {r.status}\n"
            for r in self.azure.requests
        )


class AzureThread(LoopThread[AzureSide]):
    """An `AzureSide` in a thread, for tests without an event loop."""

    def __init__(self, directory: Path, kept: Path) -> None:
        kept.mkdir(parents=True, exist_ok=True)
        super().__init__(
            lambda: AzureSide.start(directory, kept), lambda side: side.close()
        )

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Make Azure unreachable for the guest: connections are closed at once."""
        paths = (self.instance.imds_socket, self.instance.tls_socket)
        for path in paths:
            path.rename(path.with_suffix(".gone"))
        try:
            yield
        finally:
            for path in paths:
                path.with_suffix(".gone").rename(path)


def attestation_info(body: bytes) -> dict[str, Any]:
    """Return the AttestationInfo of a request to MAA."""
    info: dict[str, Any] = json.loads(decoded(json.loads(body)["AttestationInfo"]))
    return info


def decoded(text: str) -> bytes:
    """Decode base64url without padding."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _socket_paths(directory: Path) -> tuple[Path, Path]:
    return directory / "imds.sock", directory / "tls.sock"


async def _provision(state: Path, kept: Path) -> Hardware:
    """Make a TPM like Azure's: its keys, their HCL report, the AK certificate."""
    chip = await Chip.load_or_mint(kept / "chip", "milan", now=_now())
    ca = await asyncio.to_thread(VirtualTpmCa.load_or_mint, kept / "vtpm-ca-key.pem")
    vm_id = str(uuid.uuid4()).upper()
    process = SwtpmProcess(state)
    await process.power_on()
    try:
        if await provisioning.allocate_banks(process.transmit):
            await process.power_off()
            await process.power_on()
        keys = await provisioning.provision(process.transmit)
        claims = RuntimeData(
            ak_modulus=keys.ak_modulus,
            ek_modulus=None,
            vm_id=vm_id,
            secure_boot=True,
            user_data=None,
        ).encode()
        report = encode_hcl_report(
            chip.attest(report_data(claims)),
            claims,
            version=1,
            index_bytes=_INDEX_BYTES,
        )
        certificate = ca.certify(keys.ak_modulus, _now())
        for index, data in ((NV_REPORT, report), (NV_AK_CERTIFICATE, certificate)):
            await provisioning.write_guests_index(process.transmit, index, data)
    finally:
        await process.power_off()
    return Hardware(vm_id, chip, ca, keys.ak_modulus)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)  # noqa: TID251 - the VM and its certificates use the real time
