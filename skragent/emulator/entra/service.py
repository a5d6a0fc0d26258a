"""Microsoft Entra ID, emulated: the endpoints that issue tokens to applications.

There is one tenant. Of OAuth 2.0 it supports the grant `client_credentials` at the
v2.0 endpoint, with a client secret or a client assertion (`client_assertions.py`). The
key of `access_tokens.py` signs these tokens and those of managed identities.

Users, the v1.0 endpoint and secrets in an Authorization header are not supported.
"""

from __future__ import annotations

import hmac
import re
import urllib.parse
import uuid
from http import HTTPStatus
from types import MappingProxyType
from typing import TYPE_CHECKING

from typing_extensions import override

from skragent.emulator.entra.client_assertions import verify_assertion
from skragent.emulator.entra.discovery import instance, openid_configuration
from skragent.emulator.entra.errors import bad_client, bad_request, envelope, missing
from skragent.emulator.imds.identities import TENANT_ID
from skragent.emulator.service import RefusalError, Request, Response, Service

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from skragent.emulator.clock import Clock
    from skragent.emulator.entra.access_tokens import AccessTokenIssuer
    from skragent.emulator.entra.applications import Application

TENANT_DOMAIN = "skragent.onmicrosoft.com"

_JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_PATH = re.compile(r"/([^/]+)/(.+)")
_DEFAULT_SCOPE = "/.default"
_OIDC_SCOPES = frozenset(("openid", "profile", "email", "offline_access"))
_CORRELATION = "client-request-id"


class EntraId(Service):
    """The token endpoint of one tenant, and its discovery documents.

    Steps that can be mutated: `access_token` (the JWT), `token_answer` (the response
    with the token).
    """

    name = "entra"
    steps = ("access_token", "token_answer")
    words = MappingProxyType(
        {
            400: (
                "invalid_request",
                "AADSTS9002313: Invalid request. Request is malformed or invalid.",
            ),
            401: (
                "invalid_client",
                "AADSTS7000215: Invalid client secret provided.",
            ),
            429: (
                "temporarily_unavailable",
                "AADSTS90055: There are too many incoming requests.",
            ),
        }
    )

    def __init__(
        self,
        origin: str,
        entra: AccessTokenIssuer,
        resources: Collection[str],
        clock: Clock,
    ) -> None:
        """Create the service.

        Args:
            origin: its URL without a path.
            entra: issues and signs the tokens.
            resources: the resources that tokens may be for; the set may grow later.
            clock: for lifetimes.
        """
        super().__init__()
        self.origin = origin
        self._entra = entra
        self._resources = resources
        self._clock = clock
        self._applications: dict[str, Application] = {}

    def register(self, application: Application) -> None:
        """Add an application; it replaces one with the same client id."""
        self._applications[application.client_id] = application

    @override
    def respond(self, request: Request) -> Response:
        """Route a request."""
        try:
            return self._route(request)
        except RefusalError as refusal:
            correlation = request.headers.get(_CORRELATION, "")
            refusal.headers = {_CORRELATION: correlation} | refusal.headers
            raise

    @override
    def common_headers(self, request: Request) -> dict[str, str]:
        return {
            "Cache-Control": "no-store, no-cache",
            "Pragma": "no-cache",
            "x-ms-request-id": str(uuid.uuid4()),
        }

    @override
    def refusal_of(self, request: Request, status: int) -> RefusalError:
        refusal = super().refusal_of(request, status)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            refusal.code = "temporarily_unavailable"
            refusal.message = (
                "AADSTS90033: A transient error has occurred. Please try again."
            )
        elif status not in self.words:
            refusal.code = "invalid_request"
        return refusal

    @override
    def refuse(self, refusal: RefusalError) -> Response:
        """Encode a refusal with the correlation id that the client sent."""
        headers = dict(refusal.headers)
        correlation = headers.pop(_CORRELATION, "") or str(uuid.uuid4())
        body = envelope(refusal, correlation, self._clock.utc())
        return Response.of_json(refusal.status, body, headers)

    def _route(self, request: Request) -> Response:
        match = _PATH.fullmatch(request.path.rstrip("/"))
        tenant, rest = (match[1], match[2].lower()) if match else ("", "")
        if rest == "discovery/instance":  # for `common` or any tenant
            endpoint = request.parameter("authorization_endpoint")
            found = instance(endpoint, request.parameter("api-version"))
            return Response.of_json(200, found)
        if rest == "v2.0/.well-known/openid-configuration":
            _verify_tenant(tenant, "invalid_tenant")
            return Response.of_json(200, openid_configuration(self.origin))
        if rest == "discovery/v2.0/keys":
            return Response.of_json(200, self._entra.jwks)
        if rest == "oauth2/v2.0/token":
            return self._token(request, tenant)
        return Response(404)

    def _token(self, request: Request, tenant: str) -> Response:
        if request.method != "POST":
            raise bad_request(
                "invalid_request",
                "AADSTS900561: The endpoint only accepts POST requests. Received a"
                f" {request.method} request.",
            )
        _verify_tenant(tenant, "invalid_request")
        form = _form_of(request)
        grant = _required(form, "grant_type")
        if grant != "client_credentials":
            raise bad_request(
                "unsupported_grant_type",
                f"AADSTS70003: The access grant '{grant}' is not supported.",
            )
        client_id = _required(form, "client_id")
        resource = _resource_of(_required(form, "scope"))
        application = self._application(client_id)
        has_asserted = self._authenticate(application, form)
        self._verify_resource(resource)
        token, claims = self._entra.issue_to_application(
            application, resource, self._clock.now(), has_asserted=has_asserted
        )
        seconds = claims["exp"] - claims["iat"]
        response = {
            "token_type": "Bearer",
            "expires_in": seconds,
            "ext_expires_in": seconds,
            "access_token": self._mutated("access_token", token),
        }
        return Response.of_json(200, self._mutated("token_answer", response))

    def _application(self, client_id: str) -> Application:
        found = self._applications.get(client_id.lower())
        if found is None:
            raise bad_request(
                "unauthorized_client",
                f"AADSTS700016: Application with identifier '{client_id}' was not"
                f" found in the directory '{TENANT_DOMAIN}'. This can happen if the"
                " application has not been installed by the administrator of the"
                " tenant or consented to by any user in the tenant. You may have sent"
                " your authentication request to the wrong tenant.",
            )
        return found

    def _verify_resource(self, resource: str) -> None:
        if resource.rstrip("/") not in self._resources:
            raise bad_request(
                "invalid_resource",
                f"AADSTS500011: The resource principal named {resource} was not found"
                f" in the tenant named {TENANT_DOMAIN}.",
            )

    def _authenticate(self, application: Application, form: Mapping[str, str]) -> bool:
        """Authenticate the client; return whether it used an assertion."""
        assertion = form.get("client_assertion", "")
        if assertion:
            if form.get("client_assertion_type") != _JWT_BEARER:
                # Azure's text for other types is unknown.
                raise missing("client_assertion_type")
            audiences = self._audiences()
            verify_assertion(assertion, application, audiences, self._clock.utc())
            return True
        secret = form.get("client_secret", "").encode()
        if not secret:
            raise bad_client(
                "AADSTS7000216: 'client_assertion', 'client_secret' or 'request' is"
                " required for the 'client_credentials' grant type."
            )
        known = [text.encode() for text in application.secrets]
        if not any(hmac.compare_digest(secret, one) for one in known):
            raise bad_client(
                "AADSTS7000215: Invalid client secret provided. Ensure the secret being"
                " sent in the request is the client secret value, not the client secret"
                f" ID, for a secret added to app '{application.client_id}'."
            )
        return False

    def _audiences(self) -> list[str]:
        """Return the accepted audiences: the endpoint's URL and the issuer.

        Microsoft's documents have named both as an assertion's audience.
        """
        starts = [f"{self.origin}/{tenant}" for tenant in (TENANT_ID, TENANT_DOMAIN)]
        ends = ("/oauth2/v2.0/token", "/v2.0")
        return [start + end for start in starts for end in ends]


def _verify_tenant(tenant: str, error: str) -> None:
    if tenant.lower() not in (TENANT_ID, TENANT_DOMAIN):
        raise bad_request(
            error,
            f"AADSTS90002: Tenant '{tenant}' not found. Check to make sure you have the"
            " correct tenant ID and are signing into the correct cloud. Check with your"
            " subscription administrator, this may happen if there are no active"
            " subscriptions for the tenant.",
        )


def _form_of(request: Request) -> dict[str, str]:
    text = request.body.decode("utf-8", "replace")
    return dict(urllib.parse.parse_qsl(text, keep_blank_values=True))


def _required(form: Mapping[str, str], name: str) -> str:
    if not form.get(name):
        raise missing(name)
    return form[name]


def _resource_of(text: str) -> str:
    """Return the resource that a list of scopes names (RFC 6749 §3.3).

    White space around a scope is ignored: Microsoft's C++ client of confidential VMs
    (Azure/confidential-computing-cvm-guest-attestation) sends a space before it. Scopes
    of OpenID Connect do not name a resource and may accompany one that does.
    """
    scopes = [scope for scope in text.split() if scope.lower() not in _OIDC_SCOPES]
    if len(scopes) != 1:
        raise bad_request(
            "invalid_scope",
            "AADSTS70011: The provided request must include a 'scope' input parameter."
            " The provided value for the input parameter 'scope' is not valid. The"
            f" scope {text} is not valid.",
        )
    scope = scopes[0]
    if not scope.endswith(_DEFAULT_SCOPE):
        raise bad_request(
            "invalid_scope",
            f"AADSTS1002012: The provided value for scope {text} is not valid. Client"
            " credential flows must have a scope value with /.default suffixed to the"
            " resource identifier (application ID URI).",
        )
    return scope.removesuffix(_DEFAULT_SCOPE)
