"""An application that requests tokens from the emulated Entra ID."""

from __future__ import annotations

import json
import urllib.parse
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from support.azure import ENTRA, ask
from support.azure_vm import Json, b64u

from skragent.emulator.azure import Azure
from skragent.emulator.entra.applications import EXCHANGE_AUDIENCE, PLATFORM_ISSUER
from skragent.emulator.entra.applications import PLATFORM_SUBJECT as SUBJECT
from skragent.emulator.imds.identities import TENANT_ID
from skragent.emulator.service import Response

SCOPE = "https://vault.azure.net/.default"
ENDPOINT = f"{ENTRA}/{TENANT_ID}/oauth2/v2.0/token"
JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


def read_key(pem: bytes) -> rsa.RSAPrivateKey:
    key = serialization.load_pem_private_key(pem, None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def sign(header: Json, claims: Json, key: rsa.RSAPrivateKey) -> str:
    """Sign a JWT, by the algorithm that its header names; RS256 for others."""
    signed = ".".join(b64u(json.dumps(part).encode()) for part in (header, claims))
    scheme: padding.AsymmetricPadding = padding.PKCS1v15()
    if header["alg"] == "PS256":
        scheme = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    return f"{signed}.{b64u(key.sign(signed.encode(), scheme, hashes.SHA256()))}"


@dataclass
class Client:
    """The emulator's application. Changes are given by name; `None` leaves one out."""

    azure: Azure

    @property
    def client_id(self) -> str:
        return self.azure.application.client_id

    @property
    def key(self) -> rsa.RSAPrivateKey:
        return read_key(self.azure.application_files.certificate.read_bytes())

    def thumbprint(self, algorithm: hashes.HashAlgorithm) -> str:
        return b64u(self.azure.application.certificates[0].fingerprint(algorithm))

    def own(
        self,
        header: Json | None = None,
        key: rsa.RSAPrivateKey | None = None,
        **claims: Json,
    ) -> str:
        """Make an assertion as MSAL does."""
        now = self.azure.clock.now()
        good = {
            "aud": ENDPOINT,
            "iss": self.client_id,
            "sub": self.client_id,
            "exp": now + 600,
            "iat": now,
            "jti": "1",
        }
        head = {"alg": "RS256", "x5t": self.thumbprint(hashes.SHA1())}
        return sign(
            _changed(head, header or {}), _changed(good, claims), key or self.key
        )

    def platform(
        self,
        header: Json | None = None,
        key: rsa.RSAPrivateKey | None = None,
        **claims: Json,
    ) -> str:
        """Make a token like that of the trusted platform."""
        now = int(self.azure.clock.now())
        directory = self.azure.application_files.directory / "azure"
        good = {
            "aud": [EXCHANGE_AUDIENCE],
            "iss": PLATFORM_ISSUER,
            "sub": SUBJECT,
            "nbf": now,
            "exp": now + 3600,
        }
        head = {"alg": "RS256", "kid": self.azure.application.federations[0].kid}
        return sign(
            _changed(head, header or {}),
            _changed(good, claims),
            key or read_key((directory / "platform.key").read_bytes()),
        )

    def ask(self, tenant: str = TENANT_ID, **form: str | None) -> Response:
        """Request a token with the secret."""
        secret = self.azure.application_files.secret.read_text()
        return self._post(tenant, {"client_secret": secret}, form)

    def ask_asserting(self, assertion: str, **form: str | None) -> Response:
        """Request a token with an assertion."""
        proof = {"client_assertion": assertion, "client_assertion_type": JWT_BEARER}
        return self._post(TENANT_ID, proof, form)

    def _post(
        self, tenant: str, proof: dict[str, str], changes: dict[str, str | None]
    ) -> Response:
        good = {
            "grant_type": "client_credentials",
            "client_id": self.client_id,
            "scope": SCOPE,
        }
        form = urllib.parse.urlencode(_changed(good | proof, changes))
        path = f"/{tenant}/oauth2/v2.0/token"
        return ask(self.azure.entra_id, "POST", path, form.encode())


def _changed(good: Json, changes: Json) -> Json:
    return {n: v for n, v in (good | changes).items() if v is not None}
