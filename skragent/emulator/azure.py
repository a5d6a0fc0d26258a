"""The emulated Azure services around a VM: IMDS, attestation, Entra ID and the vaults.

Azure knows three things about the VM: its id, the endorsements of its chip, and the
root of these endorsements. `emulator.py` combines the services with a whole VM.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from skragent.emulator import addresses
from skragent.emulator.addresses import LOOPBACK, VaultPlan
from skragent.emulator.clock import Clock
from skragent.emulator.delay_relay import DelayRelay
from skragent.emulator.entra.access_tokens import AccessTokenIssuer
from skragent.emulator.entra.applications import ApplicationFiles, register_application
from skragent.emulator.entra.service import EntraId
from skragent.emulator.http_server import HttpServer, RequestLog
from skragent.emulator.imds.identities import make_identity
from skragent.emulator.imds.service import Imds
from skragent.emulator.keyvault.attestation_authorities import AttestationAuthorities
from skragent.emulator.keyvault.dialect import Dialect
from skragent.emulator.keyvault.key_store import KeyStore
from skragent.emulator.keyvault.lifecycle import BackupSealer
from skragent.emulator.keyvault.vault import Vault
from skragent.emulator.maa.appraisal.platform import Trust
from skragent.emulator.maa.regions import ATTESTATION_HOSTS
from skragent.emulator.maa.service import Maa
from skragent.emulator.pki import Pki, ServerIdentity

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from skragent.emulator.delay_relay import Connect
    from skragent.emulator.service import Service

DEFAULT_VAULTS = (VaultPlan("skragent-demo"), VaultPlan("skragent-hsm", "hsm"))


class Relay(Protocol):
    """An object that relays connections from a socket to a service."""

    async def listen(self, sock: socket.socket) -> None:
        """Relay connections to a bound socket until `close` is called."""

    async def close(self) -> None:
        """Stop listening and close all connections."""


class Hardware(Protocol):
    """The facts about a VM that Azure knows."""

    @property
    def vm_id(self) -> str:
        """The VM's GUID."""

    @property
    def ark_pem(self) -> str:
        """The root certificate of the chip's endorsements (ARK)."""

    def thim_certification(self) -> dict[str, str]:
        """Return the endorsements as THIM returns them."""

    def renew_ak_certificate(
        self, certificate: x509.Certificate
    ) -> x509.Certificate | None:
        """Certify the AK again; None if the certificate is for another key."""


@dataclass(frozen=True)
class Settings:
    """Settings of an emulated Azure.

    Attributes:
        ports: ports by label (`imds`, `maa`, `entra`, or a vault's name); 0 means a
            free port.
        latency_seconds: added to every round trip (`delay_relay`).
        relay: makes a relay from a function that connects to a service.
        real_names: listen at Azure's own names and addresses (`addresses`).
        sockets: with real names, the sockets to use in place of Azure's addresses: one
            for IMDS, one for all services with TLS.
        vaults: the vaults to emulate.
        clock: the services' clock.
    """

    ports: Mapping[str, int] = field(default_factory=dict)
    latency_seconds: float = 0.0
    relay: Callable[[Connect], Relay] | None = None
    real_names: bool = False
    sockets: tuple[socket.socket, socket.socket] | None = None
    vaults: tuple[VaultPlan, ...] = DEFAULT_VAULTS
    clock: Clock = field(default_factory=Clock)

    def make_relay(self, connect: Connect) -> Relay:
        """Make the relay for a service."""
        if self.relay is not None:
            return self.relay(connect)
        return DelayRelay(connect, self.latency_seconds)


@dataclass(frozen=True, slots=True)
class Urls:
    """The URL of each service."""

    imds: str
    maa: str
    entra: str
    vaults: Mapping[str, str]


class Azure:
    """The running services."""

    def __init__(
        self, directory: Path, hardware: Hardware, settings: Settings, urls: Urls
    ) -> None:
        self.clock = settings.clock
        now = dt.datetime.fromtimestamp(self.clock.now(), dt.UTC)
        state = directory / "azure"
        self.entra = AccessTokenIssuer(state)
        self.pki = Pki(state / "pki", now)
        self.ca_path = directory / "ca.pem"
        self.ca_path.write_bytes(self.pki.root.public_bytes(Encoding.PEM))
        # The VM's own identity and the application have every permission. The other
        # identity has no permissions, so that users can see a vault's denial.
        self.vm_identity = make_identity("vm", is_system_assigned=True)
        self.unprivileged_identity = make_identity("unprivileged")
        self.application_files = ApplicationFiles(directory)
        self.application = register_application(self.application_files, state, now)
        ark = x509.load_pem_x509_certificate(hardware.ark_pem.encode())
        trust = Trust(arks=frozenset([ark.public_bytes(Encoding.DER)]))
        self._maa_hosts = ATTESTATION_HOSTS if settings.real_names else ()
        self.maa = Maa(
            urls.maa, state / "maa", trust, self.clock, hosts=self._maa_hosts
        )
        self.authorities = AttestationAuthorities()
        regional = [f"https://{host}" for host in self._maa_hosts]
        for issuer in (self.maa.issuer, *regional):
            self.authorities.add(issuer, lambda: self.maa.keys.jwks)
        self.imds = Imds(
            vm_id=hardware.vm_id,
            thim=hardware.thim_certification,
            renew=hardware.renew_ak_certificate,
            entra=self.entra,
            identities=[self.vm_identity, self.unprivileged_identity],
            clock=self.clock,
            location=addresses.LOCATION,
        )
        self.imds_url = urls.imds
        self.entra_id = EntraId(urls.entra, self.entra, self.imds.resources, self.clock)
        self.entra_id.register(self.application)
        naming = "real" if settings.real_names else "local"
        self._keys_directory = directory / "keys" / naming
        self.vaults = {p.name: self._vault(p, urls) for p in settings.vaults}
        self.requests = RequestLog()
        self._listening: list[HttpServer | Relay] = []

    @classmethod
    async def start(
        cls, directory: Path, hardware: Hardware, settings: Settings | None = None
    ) -> Self:
        """Start all services; the directory keeps their keys.

        Raises:
            EmulatorError: emulator.address: another program listens at the address.
        """
        settings = settings or Settings()
        if settings.real_names:
            return await cls._start_real(directory, hardware, settings)
        labels = ["imds", "maa", "entra", *(plan.name for plan in settings.vaults)]
        bound = addresses.bind_services(
            labels, directory / "ports.json", settings.ports
        )
        origins = {n: f"{LOOPBACK}:{addresses.port_of(s)}" for n, s in bound.items()}
        urls = Urls(
            imds=f"http://{origins['imds']}",
            maa=f"https://{origins['maa']}",
            entra=f"https://{origins['entra']}",
            vaults={p.name: f"https://{origins[p.name]}" for p in settings.vaults},
        )
        azure = cls(directory, hardware, settings, urls)
        services: dict[str, Service] = {
            "imds": azure.imds,
            "maa": azure.maa,
            "entra": azure.entra_id,
            **azure.vaults,
        }
        for label, service in services.items():
            tls = {} if label == "imds" else {"": azure.server_identity(label)}
            front = azure._http_server({"": service}, tls)
            await azure._listen(front, bound[label], settings)
        return azure

    @classmethod
    async def _start_real(
        cls, directory: Path, hardware: Hardware, settings: Settings
    ) -> Self:
        imds_socket, tls_socket = settings.sockets or addresses.bind_real()
        urls = Urls(
            imds=f"http://{addresses.IMDS_ADDRESS}",
            maa=f"https://{addresses.MAA_HOST}",
            entra=f"https://{addresses.ENTRA_HOST}",
            vaults={p.name: f"https://{p.host}" for p in settings.vaults},
        )
        azure = cls(directory, hardware, settings, urls)
        hosts: dict[str, Service] = {
            **dict.fromkeys((addresses.MAA_HOST, *ATTESTATION_HOSTS), azure.maa),
            addresses.ENTRA_HOST: azure.entra_id,
        }
        # The first certificate also serves host names without a certificate.
        tls = {
            addresses.MAA_HOST: azure.server_identity("maa"),
            addresses.ENTRA_HOST: azure.server_identity("entra"),
        }
        for plan in settings.vaults:
            hosts[plan.host] = azure.vaults[plan.name]
            tls[plan.host] = azure.vaults[plan.name].signer
        await azure._listen(
            azure._http_server({"": azure.imds}, {}), imds_socket, settings
        )
        await azure._listen(azure._http_server(hosts, tls), tls_socket, settings)
        return azure

    async def close(self) -> None:
        """Stop all services."""
        for listener in reversed(self._listening):
            await listener.close()
        self._listening.clear()

    def clear_hooks(self) -> None:
        """Remove all hooks, mutations and guards, and reset the clock's skew."""
        for service in (self.imds, self.maa, self.entra_id, *self.vaults.values()):
            service.clear_hooks()
        self.clock.skew_seconds = 0.0

    def server_identity(self, label: str) -> ServerIdentity:
        """Return the TLS identity of a service other than IMDS."""
        if label in self.vaults:
            return self.vaults[label].signer
        names = {
            "maa": [addresses.MAA_HOST, "*.eus2.attest.azure.net"],
            "entra": [addresses.ENTRA_HOST],
        }
        names["maa"] += [h for h in self._maa_hosts if h != addresses.MAA_HOST]
        return self.pki.server(label, [*names[label], "localhost", LOOPBACK])

    def cvm_policy(self) -> dict[str, Any]:
        """Return a release policy that CVMs attested by this provider satisfy."""
        claims = {
            "x-ms-isolation-tee.x-ms-attestation-type": "sevsnpvm",
            "x-ms-isolation-tee.x-ms-compliance-status": "azure-compliant-cvm",
        }
        conditions = [{"claim": c, "equals": value} for c, value in claims.items()]
        authority = {"authority": self.maa.issuer, "allOf": conditions}
        return {"version": "1.0.0", "anyOf": [authority]}

    def _vault(self, plan: VaultPlan, urls: Urls) -> Vault:
        vault = Vault(
            plan.name,
            urls.vaults[plan.name],
            Dialect(plan.kind),
            KeyStore(self._keys_directory / plan.name),
            BackupSealer(self._keys_directory / f"{plan.kind}-backups.key"),
            entra=self.entra,
            authorities=self.authorities,
            signer=self.pki.server(plan.name, plan.certificate_names),
            clock=self.clock,
        )
        vault.access.grant(self.vm_identity.object_id)
        vault.access.grant(self.application.object_id)
        self.imds.resources.add(vault.resource)
        return vault

    def _http_server(
        self, services: dict[str, Service], tls: dict[str, ServerIdentity]
    ) -> HttpServer:
        return HttpServer(services, log=self.requests, clock=self.clock, identities=tls)

    async def _listen(
        self, front: HttpServer, sock: socket.socket, settings: Settings
    ) -> None:
        """Make a server listen on a socket, behind a relay if the settings ask."""
        self._listening.append(front)
        if settings.relay is None and not settings.latency_seconds:
            await front.listen(sock)
            return
        hidden = addresses.bind(LOOPBACK, 0)
        await front.listen(hidden)
        port = addresses.port_of(hidden)
        relay = settings.make_relay(partial(asyncio.open_connection, LOOPBACK, port))
        self._listening.append(relay)
        await relay.listen(sock)
