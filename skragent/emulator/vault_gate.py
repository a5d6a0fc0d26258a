"""The gate of an emulated vault: challenge, access token, api-version, headers.

What every request passes before its operation, and what every answer carries.
"""

from __future__ import annotations

import re
import secrets
import uuid
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from typing_extensions import override

from skragent.emulator.identities import TENANT_ID, InvalidAccessTokenError
from skragent.emulator.key_material import bad_parameter
from skragent.emulator.refusal import RefusalError
from skragent.emulator.service import Answer, Request, Service
from skragent.emulator.vault_access import AccessControl

if TYPE_CHECKING:
    from skragent.emulator.clock import Clock
    from skragent.emulator.identities import Entra
    from skragent.emulator.vault_dialect import Dialect

_NUMBERED_API = re.compile(r"7\.(\d+)(-preview(\.\d+)?)?")
_DATED_API = re.compile(r"20\d\d-\d\d-\d\d(-preview)?")
_FIRST_MINOR_WITH_RELEASE = 3
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


class VaultGate(Service):
    """A vault without its operations."""

    words = _WORDS

    def __init__(
        self, name: str, url: str, dialect: Dialect, entra: Entra, clock: Clock
    ) -> None:
        super().__init__()
        self.name = name
        self.url = url
        self.dialect = dialect
        self.access = AccessControl("hsm" if dialect.is_hsm else "policies")
        self._entra = entra
        self._clock = clock

    @override
    def heal(self) -> None:
        """Forget all that was done to it, and give back what was suspended."""
        super().heal()
        self.access.suspended = frozenset()

    @property
    def resource(self) -> str:
        """The audience of its access tokens: its URL without the first label.

        So it is in Azure (https://vault.azure.net for https://NAME.vault.azure.net),
        and so the SDK demands it of any other host, an IP address included.
        """
        return "https://" + urlsplit(self.url).netloc.partition(".")[2]

    @override
    def refuse(self, refusal: RefusalError) -> Answer:
        error: dict[str, Any] = {"code": refusal.code, "message": refusal.message}
        if refusal.inner:
            error["innererror"] = {"code": refusal.inner}
        body = {"error": error}
        answer = Answer.of_json(refusal.status, body, refusal.headers)
        if not refusal.message:  # the challenge to a request without a token
            answer.body = self.dialect.unauthenticated_body
        return answer

    @override
    def common_headers(self, request: Request) -> dict[str, str]:
        headers = self.dialect.headers(latency_ms=1)
        headers["x-ms-request-id"] = str(uuid.UUID(bytes=secrets.token_bytes(16)))
        client_id = request.headers.get("x-ms-client-request-id")
        return headers | ({"x-ms-client-request-id": client_id} if client_id else {})

    @property
    def challenge(self) -> dict[str, str]:
        """The header of a 401: where to get a token, and for what."""
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
    """Give the api-version, which must know release: 7.3 or later."""
    text = request.parameter("api-version")
    numbered = _NUMBERED_API.fullmatch(text)
    if numbered and int(numbered[1]) >= _FIRST_MINOR_WITH_RELEASE:
        return text
    if _DATED_API.fullmatch(text):
        return text
    raise bad_parameter(f"The api-version {text!r} is not one of 7.3 and later.")
