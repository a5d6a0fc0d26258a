"""An emulated Azure for faults, and shortcuts for HTTP requests to it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import requests
from support.azure import API, jws_parts, open_sealed
from support.azure_vm import Json, SoftwareVm, b64u
from support.deadlines import DEADLINE_SECONDS

from skragent.emulator.azure import Azure, Settings
from skragent.emulator.emulator import Emulator
from skragent.emulator.imds.identities import TENANT_ID
from skragent.emulator.keyvault.key_specs import parse_key_spec
from skragent.emulator.keyvault.vault import Vault
from skragent.emulator.service import Response
from skragent.emulator.thread import LoopThread

ATTEST = "/attest/AzureGuest?api-version=2020-10-01"
THIM = "/metadata/THIM/amd/certification"
IDENTITY = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource="
ENTRA_METADATA = f"/{TENANT_ID}/v2.0/.well-known/openid-configuration"
AZURE_VAULT = "https://vault.azure.net"


def setting(value: Json) -> str:
    """Write a member's value as a fault has it; None is for one that is missing."""
    return "" if value is None else f"={json.dumps(value)}"


@dataclass
class Broken:
    """The services on their sockets, around a VM of plain software."""

    emulator: Emulator
    thread: LoopThread[Azure]
    session: requests.Session

    def break_(self, fault: str) -> None:
        """Apply one fault."""
        self.thread.call(self.emulator.faults.apply(fault))

    def reset(self) -> None:
        """Reset all faults."""
        self.thread.call(self.emulator.faults.reset())

    def vault(self, service: str) -> Vault:
        name = "skragent-demo" if service == "vault" else "skragent-hsm"
        return self.emulator.vaults[name]

    def ask_maa(self, path: str = "/certs") -> requests.Response:
        return self.session.get(
            self.emulator.maa.issuer + path, timeout=DEADLINE_SECONDS
        )

    def ask_imds(self, path: str) -> requests.Response:
        url = self.emulator.azure.imds_url + path
        return self.session.get(
            url, headers={"Metadata": "true"}, timeout=DEADLINE_SECONDS
        )

    def ask_entra(self) -> requests.Response:
        """Request the tenant's metadata."""
        return self.session.get(
            self.emulator.azure.entra_id.origin + ENTRA_METADATA,
            timeout=DEADLINE_SECONDS,
        )

    def ask_vault(
        self, service: str, method: str, path: str, body: object = None
    ) -> requests.Response:
        """Send a request with an access token of the VM's identity."""
        vault = self.vault(service)
        azure = self.emulator.azure
        token, _ = azure.entra.issue(
            azure.vm_identity, vault.resource, azure.clock.now()
        )
        return self.session.request(
            method,
            f"{vault.url}{path}{API}",
            json=body,
            headers={"Authorization": f"Bearer {token}"},
            timeout=DEADLINE_SECONDS,
        )

    def ask_one(self, service: str) -> requests.Response:
        """Send a short request; return the JSON response."""
        if service == "imds":
            return self.ask_imds(THIM)
        if service == "maa":
            return self.ask_maa()
        if service == "entra":
            return self.ask_entra()
        return self.ask_vault(service, "GET", "/keys/rsa")

    def attest(self) -> requests.Response:
        info = SoftwareVm().attestation_info()
        body = {"AttestationInfo": b64u(json.dumps(info).encode())}
        url = self.emulator.maa.issuer + ATTEST
        return self.session.post(url, json=body, timeout=DEADLINE_SECONDS)

    def token(self) -> str:
        """Attest, and decrypt the response."""
        answer = self.attest()
        assert answer.status_code == 200, answer.text
        return open_sealed(Response(answer.status_code, answer.content))

    def claims(self) -> dict[str, Json]:
        return jws_parts(self.token())[1]

    def release(
        self, service: str, key: str = "rsa", token: str | None = None
    ) -> requests.Response:
        body = {
            "target": token or self.token(),
            "enc": "RSA_AES_KEY_WRAP_256",
            "nonce": "nonce1",
        }
        return self.ask_vault(service, "POST", f"/keys/{key}/release", body)

    def released(self, service: str) -> str:
        """Release a key, and return the JWS."""
        answer = self.release(service)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["value"])


@contextlib.contextmanager
def breakable(directory: Path, settings: Settings | None = None) -> Iterator[Broken]:
    """Start the services, each vault with the keys `rsa` and `other`."""
    vm = SoftwareVm()
    with (
        LoopThread(
            lambda: Azure.start(directory, vm, settings), lambda azure: azure.close()
        ) as thread,
        requests.Session() as session,
    ):
        azure = thread.instance
        azure.imds.is_limited = False
        session.trust_env = False
        session.verify = str(azure.ca_path)
        emulator = Emulator(directory, vm, azure)  # type: ignore[arg-type]
        for vault in azure.vaults.values():
            for name in ("rsa", "other"):
                emulator.create_key(parse_key_spec(name), vault)
        yield Broken(emulator, thread, session)
