"""The access tokens that Microsoft Entra ID issues.

One key signs all tokens. IMDS and the token endpoint (`entra/service.py`) issue them,
and vaults verify them.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from skragent.emulator.encoding import (
    NotBase64Error,
    base64url,
    base64url_uint,
    decode_base64,
    dump_json,
    sign_jws,
)
from skragent.emulator.imds.identities import TENANT_ID, VM_RESOURCE_ID, ManagedIdentity
from skragent.emulator.pki import load_or_make_key

if TYPE_CHECKING:
    from pathlib import Path

    from skragent.emulator.entra.applications import Application

_MANAGED_SECONDS = 86399  # the lifetime in tokens of managed identities: 24 h
_APPLICATION_SECONDS = 3599  # in tokens of applications: from 60 to 90 minutes


class InvalidAccessTokenError(ValueError):
    """An access token that a vault rejects; the text is for the vault's response."""


class AccessTokenIssuer:
    """Issues and verifies access tokens."""

    issuer = f"https://sts.windows.net/{TENANT_ID}/"

    def __init__(self, directory: Path) -> None:
        self._key = load_or_make_key(directory / "entra.key")
        public = self._key.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        self._kid = base64url(hashlib.sha1(public).digest())

    @property
    def jwks(self) -> dict[str, Any]:
        """The signing key, without the certificate that Azure's key set has."""
        numbers = self._key.public_key().public_numbers()
        key = {"kty": "RSA", "use": "sig", "kid": self._kid, "x5t": self._kid}
        key |= {"n": base64url_uint(numbers.n), "e": base64url_uint(numbers.e)}
        return {"keys": [key]}

    def issue(
        self, identity: ManagedIdentity, audience: str, now: float
    ) -> tuple[str, dict[str, Any]]:
        """Issue a token to a managed identity; return it with its claims."""
        more = {
            "appidacr": "2",
            "xms_az_rid": VM_RESOURCE_ID,
            "xms_mirid": identity.resource_id,
        }
        return self._issue(identity, audience, now, _MANAGED_SECONDS, more)

    def issue_to_application(
        self, identity: Application, audience: str, now: float, *, has_asserted: bool
    ) -> tuple[str, dict[str, Any]]:
        """Issue a token to an application that used an assertion or its secret."""
        more = {"appidacr": "2" if has_asserted else "1"}
        return self._issue(identity, audience, now, _APPLICATION_SECONDS, more)

    def _issue(
        self,
        identity: ManagedIdentity | Application,
        audience: str,
        now: float,
        seconds: int,
        more: dict[str, str],
    ) -> tuple[str, dict[str, Any]]:
        claims = {
            "aud": audience,
            "iss": self.issuer,
            "iat": int(now),
            "nbf": int(now),
            "exp": int(now) + seconds,
            "appid": identity.client_id,
            "idp": self.issuer,
            "idtyp": "app",
            "oid": identity.object_id,
            "sub": identity.object_id,
            "tid": TENANT_ID,
            "ver": "1.0",
        } | more
        header = {"typ": "JWT", "alg": "RS256", "x5t": self._kid, "kid": self._kid}
        return sign_jws(header, dump_json(claims), self._key), claims

    def verify(self, token: str, audience: str, now: float) -> dict[str, Any]:
        """Verify a token for an audience.

        Raises:
            InvalidAccessTokenError: the text is that of Azure's vaults.
        """
        signed, _, signature = token.rpartition(".")
        try:
            self._key.public_key().verify(
                decode_base64(signature),
                signed.encode(),
                padding.PKCS1v15(),
                hashes.SHA256(),
            )
            claims = json.loads(decode_base64(signed.partition(".")[2]))
        except (InvalidSignature, NotBase64Error, ValueError) as error:
            raise InvalidAccessTokenError(
                "AKV10032: Invalid issuer or signature."
            ) from error
        if claims["aud"].rstrip("/") != audience:
            raise InvalidAccessTokenError(
                "AKV10022: Invalid audience. Expected"
                f" {audience}, found: {claims['aud']}."
            )
        if not claims["nbf"] <= now < claims["exp"]:
            raise InvalidAccessTokenError(
                "[TokenExpired] Error validating token: 'S2S12086'."
            )
        return dict(claims)
