"""The whole emulator: a confidential VM and the Azure services, in one directory.

`skragent emulator` runs it, and tests start it (`thread.py` for synchronous callers).
An emulator locks its directory: starting a second emulator there fails.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from skragent.emulator.azure import DEFAULT_VAULTS, Azure, Settings
from skragent.emulator.clock import Clock
from skragent.emulator.confidential_vm import ConfidentialVm
from skragent.emulator.encoding import base64url, dump_json
from skragent.emulator.faults.active_faults import Faults
from skragent.emulator.faults.control_socket import FaultControlSocket
from skragent.emulator.keyvault.key_changes import add_version
from skragent.emulator.keyvault.key_material import create_material
from skragent.errors import EmulatorError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from skragent.emulator.addresses import VaultPlan
    from skragent.emulator.amd.snp_report import Generation
    from skragent.emulator.azure import Relay
    from skragent.emulator.delay_relay import Connect
    from skragent.emulator.http_server import RequestLog
    from skragent.emulator.imds.service import Imds
    from skragent.emulator.keyvault.key_specs import KeySpec
    from skragent.emulator.keyvault.vault import Vault
    from skragent.emulator.maa.service import Maa


class Emulator:
    """A running emulator.

    `faults` applies faults by name. Hooks and mutations of the services can cause
    failures that have no name.
    """

    def __init__(self, directory: Path, vm: ConfidentialVm, azure: Azure) -> None:
        self.directory = directory
        self.vm = vm
        self.azure = azure
        self.faults = Faults(self)
        self._cleanup = contextlib.AsyncExitStack()

    @classmethod
    async def start(
        cls,
        directory: Path,
        *,
        latency_seconds: float = 0.0,
        relay: Callable[[Connect], Relay] | None = None,
        real_names: bool = False,
        ports: Mapping[str, int] | None = None,
        vaults: tuple[VaultPlan, ...] = DEFAULT_VAULTS,
        clock: Clock | None = None,
        generation: Generation = "milan",
        vm_id: str | None = None,
        secure_boot: bool = True,
    ) -> Self:
        """Start the VM and the services; the directory is made if it is missing.

        Args:
            directory: keeps everything that must outlive the emulator.
            latency_seconds: added to every round trip (`delay_relay`).
            relay: makes a relay from a function that connects to a service.
            real_names: listen at Azure's own names and addresses (`addresses`).
            ports: ports by `imds`, `maa`, `entra` or a vault's name; 0 means the port
                of the last start, or a free port.
            vaults: the vaults to emulate; most methods use the first.
            clock: the services' clock; the default is the machine's clock.
            generation: the AMD product of the VM's chip.
            vm_id: a GUID; the default is the GUID of the last start, or a new GUID.
            secure_boot: whether the VM boots with Secure Boot.

        Raises:
            EmulatorError: emulator.in_use, emulator.address, emulator.application
            VtpmError: swtpm is missing or does not start.
        """
        settings = Settings(
            ports=ports or {},
            latency_seconds=latency_seconds,
            relay=relay,
            real_names=real_names,
            vaults=vaults,
            clock=clock or Clock(),
        )
        async with contextlib.AsyncExitStack() as undo:
            undo.enter_context(_owned(directory))
            vm = await ConfidentialVm.start(
                directory,
                generation=generation,
                vm_id=vm_id,
                secure_boot=secure_boot,
            )
            undo.push_async_callback(vm.close)
            azure = await Azure.start(directory, vm, settings)
            undo.push_async_callback(azure.close)
            (directory / "amd-roots.pem").write_text(vm.ark_pem)
            emulator = cls(directory, vm, azure)
            undo.push_async_callback(emulator.faults.reset)
            control = FaultControlSocket(emulator.faults, directory / "faults.sock")
            undo.push_async_callback(control.close)
            await control.listen()
            emulator._cleanup = undo.pop_all()
        return emulator

    async def close(self) -> None:
        """Stop all processes and close all sockets."""
        await self._cleanup.aclose()

    @property
    def imds(self) -> Imds:
        """The Instance Metadata Service."""
        return self.azure.imds

    @property
    def maa(self) -> Maa:
        """The attestation provider."""
        return self.azure.maa

    @property
    def vaults(self) -> dict[str, Vault]:
        """All vaults by name."""
        return self.azure.vaults

    @property
    def vault(self) -> Vault:
        """The first vault; the configuration names its keys first."""
        return next(iter(self.azure.vaults.values()))

    @property
    def requests(self) -> RequestLog:
        """All requests received so far."""
        return self.azure.requests

    def store(self, kind: Literal["vault", "hsm"]) -> Vault:
        """Return the first vault, or the first Managed HSM."""
        if kind == "vault":
            return self.vault
        return next(v for v in self.vaults.values() if v.dialect.is_hsm)

    def create_key(self, spec: KeySpec, vault: Vault | None = None) -> None:
        """Create an exportable key; its default policy is satisfied by this VM.

        Args:
            spec: the key.
            vault: where to create the key; the default is the store in `spec`.
        """
        vault = vault or self.store(spec.store)
        policy = spec.policy or dump_json(self.azure.cvm_policy())
        body = {
            "attributes": {"exportable": True},
            "release_policy": {"data": base64url(policy)},
        }
        key = add_version(
            vault.store.find(spec.name),
            spec.name,
            body,
            create_material(spec.parameters),
            is_hsm_key=True,
            now=self.azure.clock.now(),
        )
        vault.store.save(key)

    def aliases(self) -> dict[str, tuple[Vault, str]]:
        """Return an alias for each key; a repeated name gets a suffix (`-hsm`)."""
        found: dict[str, tuple[Vault, str]] = {}
        for vault in self.vaults.values():
            for name in vault.store.names:
                alias = name
                while alias in found:
                    alias += f"-{vault.dialect.kind}"
                found[alias] = (vault, name)
        return found

    def config_text(
        self, keys: Iterable[str] = (), *, api_socket: Path | None = None
    ) -> str:
        """Return an agent configuration for this VM and the current user.

        Args:
            keys: names of keys in the first vault; empty means all keys of all vaults.
            api_socket: the agent's API socket; the default is in the directory.
        """
        aliases = {name: (self.vault, name) for name in keys} or self.aliases()
        directory = self.directory.resolve()
        api = api_socket or directory / "api.sock"
        tables = {
            "agent": {
                "api_socket": str(api),
                "credentials_socket": str(api.with_name("credentials.sock")),
                "admin_socket": str(api.with_name("admin.sock")),
                "metrics_listen": "",
            },
            "attestation": {"endpoint": self.maa.issuer},
            "vtpm": {
                "tcti": self.vm.tcti,
                "tcg_log": str(self.vm.tcg_log_path.resolve()),
            },
            "imds": {"endpoint": self.azure.imds_url},
            "trust": {
                "amd_roots": str(directory / "amd-roots.pem"),
                "tls_roots": str(directory / "ca.pem"),
                "release_roots": str(directory / "ca.pem"),
            },
        }
        lines = ["# Written by skragent emulator at every start."]
        for table, settings in tables.items():
            lines += ["", f"[{table}]"]
            lines += [f"{name} = {_toml(value)}" for name, value in settings.items()]
        for alias, (vault, name) in aliases.items():
            lines += ["", f"[keys.{alias}]", f"vault = {_toml(vault.url)}"]
            lines += [f"name = {_toml(name)}"] if name != alias else []
            lines += [f"allow = [{{ user = {os.getuid()} }}]"]
        return "\n".join(lines) + "\n"


def _toml(text: str) -> str:
    """Quote a TOML basic string."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@contextlib.contextmanager
def _owned(directory: Path) -> Iterator[None]:
    """Lock a directory, or raise if another emulator has locked it."""
    directory.mkdir(parents=True, exist_ok=True)
    with Path(directory / "lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise EmulatorError(
                f"another emulator runs in {directory}",
                code="emulator.in_use",
                hint="Stop the other emulator, or choose another directory with --dir.",
            ) from error
        yield
