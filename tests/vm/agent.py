"""The agent as the guest has it: installed, configured and asked from outside."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from vm.azure_side import VAULT, AzureThread
from vm.guest import Done, Guest
from vm.machine import TLS_ADDRESS

from skragent.emulator.addresses import ENTRA_HOST, MAA_HOST

CONFIG_PATH = "/etc/skragent/skragent.toml"
CREDENTIALS = "/run/skragent/credentials.sock"
_HELD_SECONDS = 90
CONFIG = f"""\
[agent]
unit_rules_without_pidfd = true

[trust]
amd_roots = "/etc/skragent/amd-roots.pem"
tls_roots = "/etc/skragent/azure-ca.pem"
release_roots = "/etc/skragent/azure-ca.pem"

[serving]
credential_wait_seconds = 60

[keys.db]
vault = "https://{VAULT.host}"
allow = [{{ user = "alice" }}, {{ unit = "uses-db@*.service" }}]

[keys.mac]
vault = "https://{VAULT.host}"
allow = [{{ user = "alice" }}, {{ unit = "uses-mac@*.service" }}]
"""


@dataclass(slots=True)
class Agent:
    """`skragent.service` in the guest."""

    guest: Guest
    azure: AzureThread

    def install(self) -> None:
        """Do what the README tells an administrator to do."""
        guest = self.guest
        guest.check("tar -C /root -xf /dev/nvme1n1", timeout=120)
        guest.check("dpkg -i /root/skragent.deb", timeout=240)
        guest.check("usermod -aG skragent alice && usermod -aG skragent mallory")
        hosts = f"{MAA_HOST} {ENTRA_HOST} {VAULT.host}"
        guest.check(f"echo '{TLS_ADDRESS} {hosts}' >>/etc/hosts")
        azure = self.azure.world
        root = azure.azure.pki.root.public_bytes(Encoding.PEM)
        guest.write("/etc/skragent/azure-ca.pem", root)
        guest.write("/etc/skragent/amd-roots.pem", azure.hardware.ark_pem)
        self.configure(CONFIG)
        guest.check("systemctl enable --now skragent", timeout=120)

    def configure(self, text: str) -> None:
        """Write the configuration; owner and mode stay those of the package's file."""
        self.guest.check(f"cat >{CONFIG_PATH}", stdin=text.encode())

    def settle(self) -> None:
        """Wait until the service runs and holds all keys."""
        self.guest.check("systemctl start skragent", timeout=120)
        self.guest.check(
            f"skragent wait --all --timeout {_HELD_SECONDS}", timeout=_HELD_SECONDS + 60
        )

    def get(self, name: str, *, user: str = "alice", options: str = "") -> Done:
        """Ask for a key as a user of the guest; the key goes to the output."""
        return self.guest.run(
            f"runuser -u {user} -- skragent get {name} {options}", timeout=90
        )

    def status(self) -> dict[str, Any]:
        """Give what the agent tells administrators."""
        document: dict[str, Any] = json.loads(
            self.guest.check("skragent status --json")
        )
        return document

    def property(self, name: str, unit: str = "skragent.service") -> str:
        """Give a property of a unit."""
        return self.guest.check(f"systemctl show --value -p {name} {unit}").strip()

    def journal(self, options: str = "-u skragent") -> str:
        """Give messages of the journal."""
        return self.guest.check(f"journalctl --no-pager -o cat {options}")
