"""The HTTP client of Microsoft Azure Attestation: each request once, errors by cause.

`guest` encodes the request and decodes the response, and `token` verifies the token.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

from skragent.attestation import MAX_KEY_SET_BYTES, MAX_RESPONSE_BYTES
from skragent.errors import AttestationRefusedError, TransportError
from skragent.jose import decode_json
from skragent.quoting import quote
from skragent.transport import raise_for_status

if TYPE_CHECKING:
    from skragent.transport import HttpClient, HttpResponse

# Every public client of AzureGuest sends this version.
_API_VERSION = "2020-10-01"
_FOREIGN_HINT = (
    "Only HTTP 400 in the provider's own error format is a refusal of the evidence. A"
    " proxy or a firewall may answer in the provider's place."
)
# The member of the request that has the certificate: see `guest`.
_AK_CERTIFICATE = "aikcert"
_AK_CERTIFICATE_HINT = (
    "The provider does not accept the certificate of the vTPM's attestation key"
    " (AikCert): `skragent status` shows when it expires. Compare this VM's clock"
    " (`timedatectl`). If the certificate has expired, look for AK_RENEWAL_FAILED in"
    " the journal and see token.refused in skragent-errors(7)."
)
_EVIDENCE_HINT = (
    "The provider's policy does not accept this evidence, or parts of the evidence"
    " contradict each other. `skragent report` shows and checks the evidence. Shared"
    " providers refuse guests without Secure Boot."
)


class MaaClient:
    """A client of one provider, over the connections of one HTTP client.

    Args:
        endpoint: the provider's URL, such as https://sharedweu.weu.attest.azure.net
        http: has the time limit and the trusted roots.
    """

    def __init__(self, endpoint: str, http: HttpClient) -> None:
        self.endpoint = endpoint.rstrip("/")
        self._http = http

    def connect(self) -> None:
        """Open TCP and TLS before the first request needs them.

        Raises:
            TransportError: transport.timeout
        """
        self._http.connect(self.endpoint)

    def attest_guest(self, body: bytes) -> bytes:
        """Send the evidence; return the encrypted response.

        Raises:
            AttestationRefusedError: the provider refused the evidence.
            TransportError: there was no usable response.
        """
        response = self._http.request(
            "POST",
            f"{self.endpoint}/attest/AzureGuest?api-version={_API_VERSION}",
            headers={"Content-Type": "application/json"},
            body=body,
            max_bytes=MAX_RESPONSE_BYTES,
        )
        # The provider refuses evidence with this status and its own error format
        # (learn.microsoft.com: Azure Attestation, troubleshooting guide). 401 and 403
        # are about the caller or the network.
        if response.status == HTTPStatus.BAD_REQUEST and (
            reason := parse_reason(response.body)
        ):
            raise AttestationRefusedError(
                f"{self.endpoint} refused the evidence: {reason}",
                hint=_AK_CERTIFICATE_HINT
                if _AK_CERTIFICATE in reason.lower().replace(" ", "")
                else _EVIDENCE_HINT,
            )
        return self._accept(response)

    def signing_keys(self) -> bytes:
        """Return the provider's signing keys, a JWK set.

        Raises:
            TransportError: there was no usable response.
        """
        response = self._http.request(
            "GET", f"{self.endpoint}/certs", max_bytes=MAX_KEY_SET_BYTES
        )
        return self._accept(response)

    def _accept(self, response: HttpResponse) -> bytes:
        raise_for_status(response, self.endpoint)
        if response.status != HTTPStatus.OK:
            reason = parse_reason(response.body) or "not in the provider's error format"
            raise TransportError(
                f"{self.endpoint} answered with HTTP {response.status}: {reason}",
                code="transport.unexpected",
                hint=_FOREIGN_HINT,
            )
        return response.body


class _Reason(msgspec.Struct):
    code: str
    message: str


class _UpperReason(msgspec.Struct, rename="pascal"):
    code: str
    message: str


class _Envelope(msgspec.Struct):
    """Both spellings: some responses with status 5xx are in CamelCase (observed)."""

    error: _Reason | None = None
    upper: _UpperReason | None = msgspec.field(name="Error", default=None)


def parse_reason(body: bytes) -> str:
    """Return the provider's reason for a refusal: short, on one line.

    Empty if the body is not in the provider's error format, JSON with a code and a
    message (Azure Attestation REST API, "CloudError").
    """
    try:
        envelope = decode_json(body, _Envelope)
    except ValueError:
        return ""
    reason = envelope.error or envelope.upper
    if reason is None or not reason.code:
        return ""
    return quote(f"{reason.code}: {reason.message}")
