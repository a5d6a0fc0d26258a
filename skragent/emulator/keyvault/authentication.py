"""Checks of every request to a vault: bearer challenge, access token, api-version.

The base class also adds the headers of every response.
"""

from __future__ import annotations

import secrets
import uuid
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from typing_extensions import override

from skragent.emulator.entra.access_tokens import InvalidAccessTokenError
from skragent.emulator.imds.identities import TENANT_ID
from skragent.emulator.keyvault.access_control import AccessControl
from skragent.emulator.keyvault.key_material import bad_parameter
from skragent.emulator.service import RefusalError, Request, Response, Service

if TYPE_CHECKING:
    from skragent.emulator.clock import Clock
    from skragent.emulator.entra.access_tokens import AccessTokenIssuer
    from skragent.emulator.keyvault.dialect import Dialect

# Azure's published api-versions, without and with release (azure-rest-api-specs,
# specification/keyvault/data-plane, and the enumerations of Azure's SDKs).
_VERSIONS_WITHOUT_RELEASE = frozenset(
    (
        "2015-06-01",
        "2016-10-01",
        "7.0-preview",
        "7.0",
        "7.1-preview",
        "7.1",
        "7.2-preview",
        "7.2",
    )
)
_VERSIONS_WITH_RELEASE = frozenset(
    (
        "7.3-preview",
        "7.3",
        "7.4-preview.1",
        "7.4",
        "7.5-preview.1",
        "7.5",
        "7.6-preview.1",
        "7.6-preview.2",
        "7.6",
        "2025-06-01-preview",
        "2025-07-01",
        "2026-01-01-preview",
        "2026-04-01",
    )
)
_LATEST_VERSION = "2026-04-01"
_WORDS = MappingProxyType(
    {
        400: ("BadParameter", "The request is not valid."),
        404: ("KeyNotFound", "There is no such key in this key vault."),
        429: (
            "Throttled",
            (
                "Request was not processed because too many requests were received."
                " Reason: VaultRequestTypeLimitReached"
            ),
        ),
    }
)


class VaultService(Service):
    """A vault without its operations."""

    words = _WORDS

    def __init__(
        self,
        name: str,
        url: str,
        dialect: Dialect,
        entra: AccessTokenIssuer,
        clock: Clock,
    ) -> None:
        super().__init__()
        self.name = name
        self.url = url
        self.dialect = dialect
        self.access = AccessControl("hsm" if dialect.is_hsm else "policies")
        self._entra = entra
        self._clock = clock

    @override
    def clear_hooks(self) -> None:
        """Remove hooks, mutations and guards, and restore suspended permissions."""
        super().clear_hooks()
        self.access.suspended = frozenset()

    @property
    def resource(self) -> str:
        """The audience of its access tokens: its URL without the first label.

        Azure has this rule (https://vault.azure.net for https://NAME.vault.azure.net),
        and its SDKs apply it to every other host, including IP addresses.
        """
        return "https://" + urlsplit(self.url).netloc.partition(".")[2]

    @override
    def refuse(self, refusal: RefusalError) -> Response:
        error: dict[str, Any] = {"code": refusal.code, "message": refusal.message}
        if refusal.inner:
            error["innererror"] = {"code": refusal.inner}
        body = {"error": error}
        response = Response.of_json(refusal.status, body, refusal.headers)
        if not refusal.message:  # the challenge after a request without a token
            response.body = self.dialect.unauthenticated_body
        return response

    @override
    def common_headers(self, request: Request) -> dict[str, str]:
        headers = self.dialect.headers(latency_ms=1)
        headers["x-ms-request-id"] = str(uuid.UUID(bytes=secrets.token_bytes(16)))
        client_id = request.headers.get("x-ms-client-request-id")
        return headers | ({"x-ms-client-request-id": client_id} if client_id else {})

    @property
    def challenge(self) -> dict[str, str]:
        """The header of a 401: where to get a token, and for which resource."""
        return {
            "WWW-Authenticate": (
                f'Bearer authorization="https://login.microsoftonline.com/{TENANT_ID}",'
                f' resource="{self.resource}"'
            )
        }

    def _authenticate(self, request: Request) -> dict[str, Any]:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise RefusalError(401, "Unauthorized", "", headers=self.challenge)
        try:
            return self._entra.verify(token, self.resource, self._clock.now())
        except InvalidAccessTokenError as error:
            raise RefusalError(
                401, "Unauthorized", str(error), headers=self.challenge
            ) from error


def api_version_of(request: Request) -> str:
    """Return the api-version, which must be a published version from 7.3 on."""
    text = request.parameter("api-version")
    if text in _VERSIONS_WITH_RELEASE:
        return text
    if text in _VERSIONS_WITHOUT_RELEASE or not text:
        raise bad_parameter(f"The api-version {text!r} is not one of 7.3 and later.")
    # The text of Key Vault: Azure/azure-sdk-for-python#28595.
    raise bad_parameter(
        f"The specified version ({text}) is not recognized. Consider using the latest"
        f" supported version ({_LATEST_VERSION})."
    )
