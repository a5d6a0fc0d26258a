"""Send requests to emulated services without a socket, and decrypt responses."""

from __future__ import annotations

import base64
import json
import socket
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap_with_padding
from support.azure_vm import (
    NOW,
    Json,
    SoftwareVm,
    b64u,
    rsa_key,
    unb64u,
)

from skragent.emulator.azure import Azure, Settings, Urls
from skragent.emulator.clock import Clock
from skragent.emulator.service import Request, Response, Service

if TYPE_CHECKING:
    from pathlib import Path

    from skragent.emulator.keyvault.vault import Vault

ISSUER = "https://maa.test"
ENTRA = "https://entra.test"
VAULT = "https://skragent-demo.test"
HSM = "https://skragent-hsm.test"


def bind_unix(path: Path) -> socket.socket:
    """Bind a Unix socket that asyncio can serve."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    sock.settimeout(0)
    return sock


def open_sealed(answer: Response, wrapping: str = "wrapping") -> str:
    """Decrypt AzureGuest's response with the wrapping key; return the token."""
    sealed = json.loads(unb64u(json.loads(answer.body)["token"]))
    inner = rsa_key(wrapping).decrypt(
        base64.b64decode(sealed["EncryptedInnerKey"]), padding.PKCS1v15()
    )
    return (
        AESGCM(inner)
        .decrypt(
            base64.b64decode(sealed["EncryptionParams"]["Iv"]),
            base64.b64decode(sealed["Jwt"])
            + base64.b64decode(sealed["AuthenticationData"]),
            b"Transport Key",
        )
        .decode()
    )


def jws_parts(token: str) -> tuple[dict[str, Json], dict[str, Json]]:
    """Return header and payload."""
    head, payload, _ = token.split(".")
    return json.loads(unb64u(head)), json.loads(unb64u(payload))


def verify_jws(token: str, cert_der: bytes) -> None:
    """Verify RS256 with a certificate's key."""
    signed, _, signature = token.rpartition(".")
    key = x509.load_der_x509_certificate(cert_der).public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    key.verify(unb64u(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())


def unwrap(
    ciphertext: bytes, key: rsa.RSAPrivateKey, algorithm: hashes.HashAlgorithm
) -> bytes:
    """Undo RSA_AES_KEY_WRAP."""
    size = key.key_size // 8
    oaep = padding.OAEP(padding.MGF1(algorithm), algorithm, None)
    transfer_key = key.decrypt(ciphertext[:size], oaep)
    return aes_key_unwrap_with_padding(transfer_key, ciphertext[size:])


def make_azure(
    directory: Path,
    vm: SoftwareVm | None = None,
    *,
    days_later: int = 0,
    real_names: bool = False,
) -> Azure:
    """Create the services without sockets; their clock stands at 2026-01-01."""
    clock = Clock(NOW.timestamp() + days_later * 86400)
    vaults = {"skragent-demo": VAULT, "skragent-hsm": HSM}
    urls = Urls("http://imds.test", ISSUER, ENTRA, vaults)
    azure = Azure(
        directory,
        vm or SoftwareVm(),
        Settings(clock=clock, real_names=real_names),
        urls,
    )
    azure.imds.is_limited = False
    return azure


def attest_guest(azure: Azure, info: dict[str, Json]) -> Response:
    """Send a guest attestation request to the provider."""
    body = {"AttestationInfo": b64u(json.dumps(info).encode())}
    return ask(azure.maa, "POST", "/attest/AzureGuest?api-version=2020-10-01", body)


def ask(
    service: Service,
    method: str,
    target: str,
    body: object = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """Send a request to a service without a socket; refusals are responses.

    A body is sent as JSON, and bytes as they are.
    """
    if not isinstance(body, bytes):
        body = b"" if body is None else json.dumps(body).encode()
    coroutine = service.serve(Request(method, target, headers or {}, body))
    try:
        coroutine.send(None)
    except StopIteration as stop:
        answer: Response = stop.value
        return answer
    raise AssertionError("the service waited for something")


API = "?api-version=7.3"


class World:
    """The services, a guest's token, and shortcuts for requests to the vaults."""

    def __init__(self, directory: Path) -> None:
        self.azure: Azure = make_azure(directory)
        self.vault: Vault = self.azure.vaults["skragent-demo"]
        self.hsm: Vault = self.azure.vaults["skragent-hsm"]
        info = SoftwareVm().attestation_info()
        self.token = open_sealed(attest_guest(self.azure, info))

    def bearer(self, vault: Vault) -> dict[str, str]:
        token, _ = self.azure.entra.issue(
            self.azure.vm_identity, vault.resource, self.azure.clock.now()
        )
        return {"authorization": f"Bearer {token}"}

    def ask(
        self, vault: Vault, method: str, target: str, body: object = None
    ) -> Response:
        return ask(vault, method, target, body, self.bearer(vault))

    def create(
        self, vault: Vault, name: str, policy: object = None, **body: Json
    ) -> Json:
        document = self.azure.cvm_policy() if policy is None else policy
        request = {
            "kty": "RSA-HSM",
            "attributes": {"exportable": True},
            "release_policy": {"data": b64u(json.dumps(document).encode())},
        } | body
        answer = self.ask(vault, "POST", f"/keys/{name}/create{API}", request)
        assert answer.status == 200, answer.body
        return json.loads(answer.body)

    def version(self, name: str) -> str:
        key = self.vault.store.find(name)
        assert key
        return key.latest.version

    def release(self, vault: Vault, path: str, **body: Json) -> Response:
        request = {"target": self.token} | body
        return self.ask(vault, "POST", f"{path}{API}", request)

    def released(self, vault: Vault, path: str, **body: Json) -> Json:
        answer = self.release(vault, path, **body)
        assert answer.status == 200, answer.body
        return jws_parts(json.loads(answer.body)["value"])
