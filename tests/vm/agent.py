"""The agent in the guest: installation, configuration and requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.serialization import Encoding
from vm.azure_side import VAULT, AzureThread, attestation_info
from vm.guest import Guest
from vm.machine import TLS_ADDRESS

from skragent.emulator.addresses import ENTRA_HOST, MAA_HOST
from skragent.emulator.service import Request, Response

CONFIG_PATH = "/etc/skragent/skragent.toml"
API = "/run/skragent/api.sock"
PEM = "application/x-pem-file"
STATUS = "curl -sS --unix-socket /run/skragent/admin.sock http://localhost/v1/status"
CREDENTIALS = "/run/skragent/credentials.sock"
_HELD_SECONDS = 120
WATCHDOG_SECONDS = 15
# fsync is slow in this VM, and the disk is deleted with the VM.
DPKG = "dpkg --force-unsafe-io"
KEYS = ("db", "mac")
# The emulated Azure differs from the real Azure only in its certificate authorities.
TRUST = """\
[trust]
amd_roots = "/etc/skragent/amd-roots.pem"
tls_roots = "/etc/skragent/azure-ca.pem"
release_roots = "/etc/skragent/azure-ca.pem"
"""
CONFIG = f"""\
[agent]
unit_rules_without_pidfd = true

{TRUST}

[serving]
credential_wait_seconds = 300

[keys.db]
vault = "https://{VAULT.host}"
allow = [{{ user = "alice" }}, {{ unit = "uses-db@*.service" }}]

[keys.mac]
vault = "https://{VAULT.host}"
allow = [{{ user = "alice" }}, {{ unit = "uses-mac@*.service" }}]
"""


class Fetched(NamedTuple):
    """The result of a request: the HTTP status or curl's error, and the body."""

    status: str
    body: str


@dataclass(slots=True)
class Agent:
    """`skragent.service` in the guest."""

    guest: Guest
    azure: AzureThread

    def install(self) -> None:
        """Install the package by the steps of the README."""
        guest = self.guest
        guest.check("tar -C /root -xf /dev/nvme1n1", timeout=120)
        guest.check(f"{DPKG} -i /root/skragent.deb", timeout=240)
        guest.check("usermod -aG skragent alice && usermod -aG skragent mallory")
        hosts = f"{MAA_HOST} {ENTRA_HOST} {VAULT.host}"
        guest.check(f"echo '{TLS_ADDRESS} {hosts}' >>/etc/hosts")
        azure = self.azure.instance
        root = azure.azure.pki.root.public_bytes(Encoding.PEM)
        guest.write("/etc/skragent/azure-ca.pem", root)
        guest.write("/etc/skragent/amd-roots.pem", azure.hardware.ark_pem)
        self.configure(CONFIG)
        # Two differences from the package's unit: the web services have a link-local
        # address here, and the watchdog's minute is too long for a test.
        guest.write(
            "/etc/systemd/system/skragent.service.d/vm.conf",
            f"[Service]\nIPAddressAllow={TLS_ADDRESS}\n"
            f"WatchdogSec={WATCHDOG_SECONDS}\n",
        )
        guest.check("systemctl daemon-reload")
        guest.check("systemctl enable --now skragent", timeout=120)

    def configure(self, text: str) -> None:
        """Write the configuration; keep the owner and mode of the package's file."""
        self.guest.check(f"cat >{CONFIG_PATH}", stdin=text.encode())

    def wait_until_current(self) -> None:
        """Wait until the service runs and all keys are current."""
        # `skragent wait` is not used, because Python takes seconds to start here.
        held = f"""{STATUS} | grep -o '"state": "current"' | wc -l"""
        self.guest.check("systemctl start skragent", timeout=120)
        self.guest.until(f'test "$({held})" = {len(KEYS)}', timeout=_HELD_SECONDS)

    def releases(self) -> int:
        """Count the releases of the vault so far."""
        return sum(
            "/release" in request.target and request.status == HTTPStatus.OK
            for request in self.azure.instance.azure.requests
        )

    def refresh(self, *, timeout: float = 90.0) -> None:
        """Refresh all keys, and wait until the vault has released one."""
        before = self.releases()
        self.guest.check("skragent refresh")
        self.guest.wait_for(lambda: self.releases() > before, "a release", timeout)

    @contextmanager
    def evidence(self) -> Iterator[list[dict[str, Any]]]:
        """Collect the evidence that the guest sends in the meantime."""
        sent: list[dict[str, Any]] = []

        async def note(request: Request, answer: Response) -> Response:
            if request.method == "POST":
                sent.append(attestation_info(request.body))
            return answer

        maa = self.azure.instance.azure.maa
        maa.before_response = note
        try:
            yield sent
        finally:
            maa.before_response = None

    def get(
        self, name: str, *, user: str = "alice", form: str = PEM, wait: int = 0
    ) -> Fetched:
        """Request a key as a user of the guest, with curl.

        Python takes seconds to start here, so only one scenario uses `skragent get`.
        """
        url = f"http://localhost/v1/keys/{name}?wait={wait}"
        done = self.guest.run(
            f"runuser -u {user} -- curl -sS -m {wait + 60} -H 'Accept: {form}'"
            f" -w '%{{stderr}}%{{http_code}}' --unix-socket {API} '{url}'",
            timeout=wait + 90,
        )
        return Fetched(done.err.strip(), done.out)

    def property(self, name: str, unit: str = "skragent.service") -> str:
        """Return a property of a unit."""
        return self.guest.check(f"systemctl show --value -p {name} {unit}").strip()

    def journal(self, options: str = "-u skragent") -> str:
        """Return messages of the journal."""
        return self.guest.check(f"journalctl --no-pager -o cat {options}")
