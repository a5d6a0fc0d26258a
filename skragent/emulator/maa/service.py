"""Microsoft Azure Attestation, emulated: guest and platform attestation of SEV-SNP.

Paths are not case-sensitive: the Go sidecar requests `/attest/SevSnpVM`. Callers do
not authenticate, as with the shared providers. `appraisal` judges the evidence; this
module has the routes, tokens and error format.
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

_LIFETIME_SECONDS = 28800  # 8 h, as in every observed token
# The published versions that do not require an Entra ID token (azure-rest-api-specs,
# specification/attestation/data-plane, and Azure's clients).
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
    """An attestation provider.

    Steps that can be mutated: `claims` (before signing), `header`, `signer` (the
    private key), `token` (the compact JWS), `sealed` (the members of AzureGuest's
    encrypted response), `jwks`.
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
        """Create the service.

        Args:
            issuer: its URL.
            directory: keeps its signing keys.
            trust: the roots of accepted evidence.
            clock: for lifetimes.
            hosts: names of the providers of other regions, which this service also
                serves. Each is a separate issuer; unlike in Azure, all share the keys.
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
            return Response.of_json(200, self._mutated("jwks", self.keys.jwks))
        if route == ("GET", "/.well-known/openid-configuration"):
            return Response.of_json(200, self._metadata(self._issuer_of(request)))
        raise RefusalError(404, "NotFound", f"There is nothing at {request.path}.")

    @override
    def refuse(self, refusal: RefusalError) -> Response:
        """Encode a refusal in MAA's format, which differs for 5xx statuses."""
        headers = {"x-ms-error-code": refusal.code} | refusal.headers
        if refusal.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            # The C++ client's getErrorMessage accepts both spellings.
            failure = {"Code": refusal.code, "Message": refusal.message}
            return Response.of_json(refusal.status, {"Error": failure}, headers)
        error = {"code": refusal.code, "message": refusal.message}
        return Response.of_json(refusal.status, {"error": error}, headers)

    def _attest_guest(self, request: Request) -> Response:
        _verify_api_version(request)
        body = request.json_object("InvalidParameter")
        appraisal = appraise_guest_request(body, self.trust, self._now())
        token = self._token(appraisal.claims, self._issuer_of(request))
        sealed = self._mutated("sealed", seal_token(token, appraisal.wrapping_key))
        return Response.of_json(200, {"token": base64url(dump_json(sealed))})

    def _attest_platform(self, request: Request) -> Response:
        _verify_api_version(request)
        body = request.json_object("InvalidParameter")
        claims = appraise_platform_request(body, self.trust, self._now())
        token = self._token(claims, self._issuer_of(request))
        return Response.of_json(200, {"token": token})

    def _issuer_of(self, request: Request) -> str:
        """Return the issuer for the Host header of a request."""
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
        payload = dump_plain_json(self._mutated("claims", claims | issued))
        key = self._mutated("signer", signer.key)
        token = sign_jws(self._mutated("header", header), payload, key)
        return str(self._mutated("token", token))

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
    """Require a published api-version.

    Codes and texts are those of ASP.NET's API versioning, which Azure services use
    (dotnet/aspnet-api-versioning). Those of the attestation service are unknown.
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
