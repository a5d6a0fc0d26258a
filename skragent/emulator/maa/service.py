"""Microsoft Azure Attestation, emulated: guest and platform attestation of SEV-SNP.

Paths are matched without regard to case: the Go sidecar asks for `/attest/SevSnpVM`.
No caller authenticates, as on the shared providers. What is judged is in `appraisal`;
here are routes, tokens and envelopes.
"""

from __future__ import annotations

import datetime as dt
import secrets
from http import HTTPStatus
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from skragent.emulator.encoding import base64url, dump_json, dump_plain_json, sign_jws
from skragent.emulator.maa.appraisal.guest import appraise_guest_request
from skragent.emulator.maa.appraisal.platform import Trust, appraise_platform_request
from skragent.emulator.maa.tokens import SigningKeys, seal_token
from skragent.emulator.service import RefusalError, Request, Response, Service

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from skragent.emulator.clock import Clock

_LIFETIME_SECONDS = 28800  # 8 h in every token that was seen
# The published ones that need no Entra ID token (azure-rest-api-specs,
# specification/attestation/data-plane; Azure's own clients).
_API_VERSIONS = frozenset(
    (
        "2020-10-01",
        "2022-08-01",
        "2022-09-01-preview",
        "2023-04-01-preview",
        "2025-06-01",
        "2026-03-11-preview",
    )
)


class Maa(Service):
    """One attestation provider.

    Steps that can be mutated: `claims` (before signing), `header`, `signer` (the
    private key), `token` (the compact JWS), `sealed` (the members of AzureGuest's
    sealed answer), `jwks`.
    """

    name = "maa"
    steps = ("claims", "header", "signer", "token", "sealed", "jwks")
    words = MappingProxyType({400: ("InvalidParameter", "Invalid parameter.")})

    def __init__(
        self,
        issuer: str,
        directory: Path,
        trust: Trust,
        clock: Clock,
        *,
        hosts: Collection[str] = (),
    ) -> None:
        """Build the service.

        Args:
            issuer: its URL.
            directory: where its signing keys are kept.
            trust: whose evidence it accepts.
            clock: for lifetimes.
            hosts: names of other regions' providers, which it is as well. Each is an
                issuer of its own; unlike Azure's, all of them sign with the same keys.
        """
        super().__init__()
        self.issuer = issuer
        self._hosts = frozenset(hosts)
        self.trust = trust
        self._clock = clock
        self.keys = SigningKeys(directory, issuer, self._now())

    @override
    def respond(self, request: Request) -> Response:
        """Route a request."""
        route = (request.method, request.path.lower().rstrip("/"))
        if route == ("POST", "/attest/azureguest"):
            return self._attest_guest(request)
        if route == ("POST", "/attest/sevsnpvm"):
            return self._attest_platform(request)
        if route == ("GET", "/certs"):
            return Response.of_json(200, self._through("jwks", self.keys.jwks))
        if route == ("GET", "/.well-known/openid-configuration"):
            return Response.of_json(200, self._metadata(self._issuer_of(request)))
        raise RefusalError(404, "NotFound", f"There is nothing at {request.path}.")

    @override
    def refuse(self, refusal: RefusalError) -> Response:
        """Put a refusal into MAA's envelope, which is another one from 500 on."""
        headers = {"x-ms-error-code": refusal.code} | refusal.headers
        if refusal.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            # The C++ client's getErrorMessage has met both spellings.
            failure = {"Code": refusal.code, "Message": refusal.message}
            return Response.of_json(refusal.status, {"Error": failure}, headers)
        error = {"code": refusal.code, "message": refusal.message}
        return Response.of_json(refusal.status, {"error": error}, headers)

    def _attest_guest(self, request: Request) -> Response:
        _verify_api_version(request)
        body = request.json_object("InvalidParameter")
        appraisal = appraise_guest_request(body, self.trust, self._now())
        token = self._token(appraisal.claims, self._issuer_of(request))
        sealed = self._through("sealed", seal_token(token, appraisal.wrapping_key))
        return Response.of_json(200, {"token": base64url(dump_json(sealed))})

    def _attest_platform(self, request: Request) -> Response:
        _verify_api_version(request)
        body = request.json_object("InvalidParameter")
        claims = appraise_platform_request(body, self.trust, self._now())
        token = self._token(claims, self._issuer_of(request))
        return Response.of_json(200, {"token": token})

    def _issuer_of(self, request: Request) -> str:
        """Give the provider that was asked: the one of the Host header."""
        host = request.headers.get("host", "").partition(":")[0].lower()
        return f"https://{host}" if host in self._hosts else self.issuer

    def _token(self, claims: dict[str, Any], issuer: str) -> str:
        now = int(self._clock.now())
        issued = {
            "iss": issuer,
            "iat": now,
            "nbf": now,
            "exp": now + _LIFETIME_SECONDS,
            "jti": secrets.token_hex(32),
        }
        signer = self.keys.current
        header = {
            "alg": "RS256",
            "jku": f"{issuer}/certs",
            "kid": signer.kid,
            "typ": "JWT",
        }
        payload = dump_plain_json(self._through("claims", claims | issued))
        key = self._through("signer", signer.key)
        token = sign_jws(self._through("header", header), payload, key)
        return str(self._through("token", token))

    def _metadata(self, issuer: str) -> dict[str, Any]:
        return {
            "issuer": issuer,
            "jwks_uri": f"{issuer}/certs",
            "response_types_supported": ["token", "none"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "revocation_endpoint": f"{issuer}/revoke",
            "claims_supported": ["iss", "iat", "nbf", "exp", "jti", "nonce"],
        }

    def _now(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self._clock.now(), dt.UTC)


def _verify_api_version(request: Request) -> None:
    """Demand a published api-version.

    The codes and words are those of ASP.NET's API versioning, which Azure services use
    (dotnet/aspnet-api-versioning); the attestation service's own were not seen.
    """
    version = request.parameter("api-version")
    if not version:
        raise RefusalError(
            400,
            "ApiVersionUnspecified",
            "An API version is required, but was not specified.",
        )
    if version not in _API_VERSIONS:
        raise RefusalError(
            400,
            "UnsupportedApiVersion",
            f"The HTTP resource that matches the request URI '{request.path}' does not"
            f" support the API version '{version}'.",
        )
