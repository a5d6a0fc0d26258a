"""Microsoft Azure Attestation over HTTPS: asks, once, and names what went wrong.

Not here: what is in the request (`guest`) and whether the answer is any good (`token`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from skragent.attestation.limits import MAX_ANSWER_BYTES, MAX_KEY_SET_BYTES
from skragent.errors import AttestationRefusedError, TransportError
from skragent.jose import decode_json
from skragent.transport import raise_for_status

if TYPE_CHECKING:
    from skragent.transport import HttpClient, HttpResponse

# What every client of AzureGuest uses (protocols/maa.md §1.1).
_API_VERSION = "2020-10-01"
_OK = 200
_REFUSALS = (400, 401, 403)
_MAX_REASON_CHARS = 300


class MaaClient:
    """One provider, asked over the connections of one HTTP client.

    Args:
        endpoint: the provider's URL, such as https://sharedweu.weu.attest.azure.net
        http: bounds time, trusts the configured roots.
    """

    def __init__(self, endpoint: str, http: HttpClient) -> None:
        self.endpoint = endpoint.rstrip("/")
        self._http = http

    def connect(self) -> None:
        """Open TCP and TLS ahead of the request that will need them.

        Raises:
            TransportError: transport.timeout
        """
        self._http.connect(self.endpoint)

    def attest_guest(self, body: bytes) -> bytes:
        """Send the evidence; gives the sealed answer.

        Raises:
            AttestationRefusedError: the provider said no.
            TransportError: it could not be asked, or cannot answer now.
        """
        response = self._http.request(
            "POST",
            f"{self.endpoint}/attest/AzureGuest?api-version={_API_VERSION}",
            headers={"Content-Type": "application/json"},
            body=body,
            max_bytes=MAX_ANSWER_BYTES,
        )
        return self._accept(response)

    def signing_keys(self) -> bytes:
        """Ask for the keys that the provider signs tokens with.

        Raises:
            AttestationRefusedError: the provider said no.
            TransportError: it could not be asked, or cannot answer now.
        """
        response = self._http.request(
            "GET", f"{self.endpoint}/certs", max_bytes=MAX_KEY_SET_BYTES
        )
        return self._accept(response)

    def _accept(self, response: HttpResponse) -> bytes:
        raise_for_status(response, self.endpoint)
        if response.status in _REFUSALS:
            raise AttestationRefusedError(
                f"{self.endpoint} refused (HTTP {response.status}):"
                f" {parse_reason(response.body)}",
                hint="The provider's policy or the evidence itself is at odds with it;"
                " `skragent report` shows the evidence. Shared providers refuse guests"
                " without Secure Boot.",
            )
        if response.status != _OK:
            raise TransportError(
                f"{self.endpoint} answered with HTTP {response.status}",
                code="transport.unexpected",
            )
        return response.body


class _Reason(msgspec.Struct):
    code: str = ""
    message: str = ""


class _UpperReason(msgspec.Struct, rename="pascal"):
    code: str = ""
    message: str = ""


class _Envelope(msgspec.Struct):
    """Both spellings: 5xx answers have been seen in CamelCase (maa.md §1.6)."""

    error: _Reason | None = None
    upper: _UpperReason | None = msgspec.field(name="Error", default=None)


def parse_reason(body: bytes) -> str:
    """Read why the provider refused, trimmed and on one line; total."""
    try:
        envelope = decode_json(body, _Envelope)
    except ValueError:
        return "it gave no reason that can be read"
    said = envelope.error or envelope.upper or _Reason()
    text = " ".join(f"{said.code}: {said.message}".split())
    printable = "".join(c if c.isprintable() else "?" for c in text)
    return printable.strip(": ")[:_MAX_REASON_CHARS] or "it gave no reason"
