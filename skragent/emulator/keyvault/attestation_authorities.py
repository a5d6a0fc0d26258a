"""The attestation services that a vault trusts, and how it verifies their tokens.

Azure fetches an issuer's metadata at release time. Here, the vault reads the key set
in memory, without a request.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from skragent.emulator.encoding import NotBase64Error, decode_base64
from skragent.emulator.service import RefusalError

if TYPE_CHECKING:
    from collections.abc import Callable

    from skragent.emulator.keyvault.release_policy import Policy

Jwks = dict[str, Any]


class AttestationAuthorities:
    """Issuers by URL, each with a function that returns its key set."""

    def __init__(self) -> None:
        self._jwks: dict[str, Callable[[], Jwks]] = {}

    def add(self, issuer: str, jwks: Callable[[], Jwks]) -> None:
        """Add an issuer."""
        self._jwks[issuer.removesuffix("/")] = jwks

    def has(self, url: str) -> bool:
        """Return whether this is the URL of an issuer."""
        return url.removesuffix("/") in self._jwks

    def verify(self, token: str, policy: Policy, now: float) -> dict[str, Any]:
        """Verify an attestation token from one of a policy's authorities.

        Raises:
            RefusalError: 403 without a reason, as in Azure.
        """
        try:
            claims = self._claims_of(token)
            is_valid = policy.trusts(str(claims["iss"])) and (
                claims["nbf"] <= now < claims["exp"]
            )
        except (InvalidSignature, ValueError, TypeError, LookupError, StopIteration):
            is_valid, claims = False, {}
        if not is_valid:
            raise RefusalError(
                403,
                "Forbidden",
                "Target environment attestation statement cannot be verified.",
                inner="AccessDenied",
            )
        return claims

    def _claims_of(self, token: str) -> dict[str, Any]:
        """Verify the signature with the issuer's keys and return the claims."""
        signed, _, signature = token.rpartition(".")
        head, _, payload = signed.partition(".")
        header = json.loads(decode_base64(head))
        claims = json.loads(decode_base64(payload))
        if not isinstance(claims, dict) or header["alg"] != "RS256":
            raise NotBase64Error("not an RS256 JWS of claims")
        jwks = self._jwks[str(claims["iss"]).removesuffix("/")]()
        jwk = next(k for k in jwks["keys"] if k["kid"] == header["kid"])
        cert = x509.load_der_x509_certificate(decode_base64(jwk["x5c"][0]))
        key = cert.public_key()
        if not isinstance(key, rsa.RSAPublicKey):
            raise NotBase64Error("not an RSA key")
        key.verify(
            decode_base64(signature),
            signed.encode(),
            padding.PKCS1v15(),
            hashes.SHA256(),
        )
        return claims
