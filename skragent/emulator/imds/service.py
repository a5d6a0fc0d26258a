"""The Azure Instance Metadata Service, emulated.

It serves managed identity tokens, instance metadata and THIM, with the header rules
and rate limits of Azure: 5 requests per second; for identity tokens 20 per second and
5 at once. With a token bucket of that size (`throttle.py`), a client can send the
three or four requests that it needs at once.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from skragent.emulator.imds.identities import (
    RESOURCE_GROUP,
    SUBSCRIPTION_ID,
    VM_NAME,
    VM_RESOURCE_ID,
    ManagedIdentity,
)
from skragent.emulator.imds.thim import (
    LATER,
    QUERY,
    RENEW,
    Thim,
    bad_api_version,
    bad_request,
)
from skragent.emulator.service import RefusalError, Request, Response, Service
from skragent.emulator.throttle import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from skragent.emulator.clock import Clock
    from skragent.emulator.entra.access_tokens import AccessTokenIssuer
    from skragent.emulator.imds.thim import Renew

_REQUESTS_PER_SECOND = 5
_TOKENS_PER_SECOND = 20
_TOKENS_AT_ONCE = 5

_API_VERSION = re.compile(r"\d{4}-\d\d-\d\d")
_NEWEST_VERSIONS = ["2025-04-07", "2024-07-17", "2024-03-15"]
_OLDEST_INSTANCE_VERSION = "2017-04-02"
_OLDEST_IDENTITY_VERSION = "2018-02-01"

_WELL_KNOWN_RESOURCES = frozenset(
    f"https://{host}"
    for host in (
        "vault.azure.net",
        "managedhsm.azure.net",
        "management.azure.com",
        "management.core.windows.net",
        "storage.azure.com",
        "attest.azure.net",
    )
)


class Imds(Service):
    """The metadata service of one VM.

    Steps that can be mutated: `access_token` (the JWT), `token_answer` (the response
    with the token), `thim` (the THIM response), `renewal` (the renewal response),
    `compute` (the instance metadata), `identities` (the VM's identities).
    """

    name = "imds"
    steps = (
        *("access_token", "token_answer", "thim", "renewal"),
        *("compute", "identities"),
    )

    def __init__(
        self,
        *,
        vm_id: str,
        thim: Callable[[], dict[str, str]],
        renew: Renew,
        entra: AccessTokenIssuer,
        identities: Sequence[ManagedIdentity],
        clock: Clock,
        location: str = "eastus2",
    ) -> None:
        super().__init__()
        self.vm_id = vm_id
        self.location = location
        self.identities = list(identities)
        self.resources = set(_WELL_KNOWN_RESOURCES)
        self._thim = thim
        self._renewals = Thim(vm_id, renew, clock)
        self._entra = entra
        self._clock = clock
        self._tokens_in_progress = 0
        self.is_limited = True
        self._requests = TokenBucket(
            _REQUESTS_PER_SECOND, _REQUESTS_PER_SECOND, clock.monotonic
        )
        self._tokens = TokenBucket(
            _TOKENS_PER_SECOND, _TOKENS_PER_SECOND, clock.monotonic
        )

    @override
    async def serve(self, request: Request) -> Response:
        if not _is_for_identity(request):
            return await super().serve(request)
        self._tokens_in_progress += 1
        try:
            return await super().serve(request)
        finally:
            self._tokens_in_progress -= 1

    @override
    def respond(self, request: Request) -> Response:
        is_for_identity = _is_for_identity(request)
        _verify_headers(request, is_for_identity=is_for_identity)
        self._limit(is_for_identity=is_for_identity)
        names = [name for name, _ in request.query]
        if len(names) != len(set(names)):
            raise bad_request("Duplicate query parameters are not allowed")
        path = request.path.rstrip("/").lower()
        if request.method == "POST" and path == RENEW:
            return self._renew(request)
        if request.method != "GET":
            raise RefusalError(405, "", "Method not allowed")
        if is_for_identity:
            return self._token(request)
        if path == "/metadata/thim/amd/certification":
            return Response.of_json(200, self._mutated("thim", self._thim()))
        if path == QUERY:
            return self._renewals.query(request)
        if path == "/metadata/instance" or path.startswith("/metadata/instance/"):
            return self._instance(request)
        raise RefusalError(404, "", "Not found")

    @override
    def refusal_of(self, request: Request, status: int) -> RefusalError:
        refusal = super().refusal_of(request, status)
        words = refusal.message.rstrip(".")
        code = words.lower().replace(" ", "_") if _is_for_identity(request) else ""
        return RefusalError(status, code, words)

    @override
    def refuse(self, refusal: RefusalError) -> Response:
        if refusal.code:  # the identity endpoint uses OAuth 2.0's format
            body: dict[str, Any] = {
                "error": refusal.code,
                "error_description": refusal.message,
            }
        else:
            body = {"error": refusal.message}
            if "api-version" in refusal.message:
                body["newest-versions"] = _NEWEST_VERSIONS
        return Response.of_json(refusal.status, body, refusal.headers)

    def _limit(self, *, is_for_identity: bool) -> None:
        if not self.is_limited:
            return
        bucket = self._tokens if is_for_identity else self._requests
        too_many = is_for_identity and self._tokens_in_progress > _TOKENS_AT_ONCE
        if too_many or not bucket.take():
            code = "too_many_requests" if is_for_identity else ""
            raise RefusalError(429, code, "Too many requests")

    def _token(self, request: Request) -> Response:
        version = request.parameter("api-version")
        if not _API_VERSION.fullmatch(version) or version < _OLDEST_IDENTITY_VERSION:
            raise RefusalError(
                400, "invalid_request", "Required query variable 'api-version' is wrong"
            )
        resource = request.parameter("resource")
        if not resource:
            raise RefusalError(
                400, "invalid_request", "Required query variable 'resource' is missing"
            )
        if resource.rstrip("/") not in self.resources:
            raise RefusalError(
                400,
                "invalid_resource",
                f"AADSTS500011: The resource principal named {resource} was not found"
                " in the tenant.",
            )
        identity = self._select(request)
        token, claims = self._entra.issue(identity, resource, self._clock.now())
        response = {
            "access_token": self._mutated("access_token", token),
            "client_id": identity.client_id,
            "expires_in": str(claims["exp"] - claims["iat"]),
            "expires_on": str(claims["exp"]),
            "ext_expires_in": str(claims["exp"] - claims["iat"]),
            "not_before": str(claims["nbf"]),
            "resource": resource,
            "token_type": "Bearer",
        }
        return Response.of_json(200, self._mutated("token_answer", response))

    def _select(self, request: Request) -> ManagedIdentity:
        """Return the selected identity, or the only candidate."""
        selectors = {
            "client_id": lambda i: i.client_id,
            "object_id": lambda i: i.object_id,
            "msi_res_id": lambda i: i.resource_id,
        }
        identities: list[ManagedIdentity] = self._mutated("identities", self.identities)
        given = {n: v for n in selectors if (v := request.parameter(n))}
        if len(given) > 1:
            raise RefusalError(
                400, "invalid_request", "More than one identity selector is given"
            )
        for name, value in given.items():
            for identity in identities:
                if selectors[name](identity).lower() == value.lower():
                    return identity
            raise RefusalError(400, "invalid_request", "Identity not found")
        system = [i for i in identities if i.is_system_assigned]
        candidates = system or identities
        if not candidates:
            raise RefusalError(400, "invalid_request", "Identity not found")
        if len(candidates) > 1:
            raise RefusalError(
                400,
                "invalid_request",
                "Multiple user assigned identities exist, please specify the clientId"
                " / resourceId of the identity in the token request",
            )
        return candidates[0]

    def _renew(self, request: Request) -> Response:
        if request.parameter("api-version") == LATER:
            return self._renewals.order(request)
        members = self._renewals.renew(request)
        return Response.of_json(200, self._mutated("renewal", members))

    def _instance(self, request: Request) -> Response:
        version = request.parameter("api-version")
        if not _API_VERSION.fullmatch(version) or not (
            _OLDEST_INSTANCE_VERSION <= version <= _NEWEST_VERSIONS[0]
        ):
            raise bad_api_version()
        node: Any = {"compute": self._mutated("compute", self._compute())}
        for part in request.path.split("/")[3:]:
            if part:
                node = _child(node, part)
        is_text = request.parameter("format") == "text"
        if isinstance(node, dict | list):
            if is_text:
                names = "\n".join(
                    n + ("/" if isinstance(node[n], dict) else "") for n in node
                )
                return Response.of_text(names)
            return Response.of_json(200, node)
        if not is_text:
            raise bad_request("A leaf requires format=text")
        return Response.of_text(node)

    def _compute(self) -> dict[str, Any]:
        """Return the instance metadata; every leaf is a string, as in Azure."""
        return {
            "azEnvironment": "AzurePublicCloud",
            "isHostCompatibilityLayerVm": "false",
            "location": self.location,
            "name": VM_NAME,
            "offer": "0001-com-ubuntu-confidential-vm-jammy",
            "osType": "Linux",
            "provider": "Microsoft.Compute",
            "publisher": "Canonical",
            "resourceGroupName": RESOURCE_GROUP,
            "resourceId": VM_RESOURCE_ID,
            "securityProfile": {
                "encryptionAtHost": "false",
                "secureBootEnabled": "true",
                "securityType": "ConfidentialVM",
                "virtualTpmEnabled": "true",
            },
            "sku": "22_04-lts-cvm",
            "subscriptionId": SUBSCRIPTION_ID,
            "tags": "",
            "vmId": self.vm_id.lower(),
            "vmSize": "Standard_DC2as_v5",
            "zone": "",
        }


def _is_for_identity(request: Request) -> bool:
    return request.path.rstrip("/").lower() == "/metadata/identity/oauth2/token"


def _verify_headers(request: Request, *, is_for_identity: bool) -> None:
    """Refuse requests that may come from outside the VM, such as from a proxy."""
    if request.headers.get("metadata", "").lower() != "true":
        if is_for_identity:
            raise RefusalError(
                400, "bad_request_102", "Required metadata header not specified"
            )
        raise bad_request("Required metadata header not specified")
    if "x-forwarded-for" in request.headers:
        if is_for_identity:
            raise RefusalError(
                400, "bad_request_101", "X-Forwarded-For header is not allowed"
            )
        raise bad_request("X-Forwarded-For header is not allowed")


def _child(node: object, name: str) -> object:
    if isinstance(node, dict):
        for key, value in node.items():
            if key.lower() == name.lower():
                return value
    raise RefusalError(404, "", "Not found")
