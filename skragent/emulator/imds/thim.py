"""Trusted Hardware Identity Management: renew the certificate of a VM's AK.

Microsoft does not document the interface. The requests are those of its own client
(ImdsClient.cpp of cvm-guest-attestation): renewal at once (2023-07-01), or an order
that the client queries later (2021-12-01). IMDS passes the requests on and applies its
own rules first.
"""

from __future__ import annotations

import re
import urllib.parse
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from skragent.emulator.service import RefusalError, Request, Response

if TYPE_CHECKING:
    from skragent.emulator.clock import Clock

RENEW: Final = "/metadata/thim/tvm/certificate/renew"
QUERY: Final = "/metadata/thim/tvm/certificate/query"
AT_ONCE: Final = "2023-07-01"
LATER: Final = "2021-12-01"

# The client waits 60 seconds before its query.
_SECONDS_TO_MAKE: Final = 45.0
_MAX_ORDERS: Final = 16
_MAX_BODY_BYTES: Final = 16 * 1024
_GUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)

# The exceptions of `cryptography` for certificates with an unknown version or key type.
_UNREADABLE: Final = (
    ValueError,
    TypeError,
    x509.InvalidVersion,
    UnsupportedAlgorithm,
)

Renew = Callable[[x509.Certificate], x509.Certificate | None]


class Thim:
    """Renews the AK certificates of one VM.

    Args:
        vm_id: the VM's GUID.
        renew: returns a new certificate; None if the given one is not for the VM's AK.
        clock: the services' clock.
    """

    def __init__(self, vm_id: str, renew: Renew, clock: Clock) -> None:
        self._vm_id = vm_id
        self._renew = renew
        self._clock = clock
        self._orders: dict[str, tuple[float, str]] = {}  # by GUID: ready at, PEM

    def renew(self, request: Request) -> dict[str, str]:
        """Return the members of the response to an immediate renewal."""
        pem = self._make(request)
        return {"AkCertPem": pem, "CertQueryId": self._order(pem)}

    def order(self, request: Request) -> Response:
        """Return the response to a renewal order: its GUID."""
        return Response.of_text(self._order(self._make(request)))

    def query(self, request: Request) -> Response:
        """Return the ordered certificate, after the time to make it."""
        self._judge(request, (LATER,))
        ready_at, pem = self._orders.get(request.parameter("guid"), (0.0, ""))
        if not pem or self._clock.now() < ready_at:
            raise RefusalError(404, "", "Not found")
        return Response.of_text(pem)

    def _order(self, pem: str) -> str:
        guid = str(uuid.uuid4())
        self._orders[guid] = (self._clock.now() + _SECONDS_TO_MAKE, pem)
        while len(self._orders) > _MAX_ORDERS:
            del self._orders[next(iter(self._orders))]
        return guid

    def _make(self, request: Request) -> str:
        self._judge(request, (AT_ONCE, LATER))
        if len(request.body) > _MAX_BODY_BYTES:
            raise RefusalError(413, "", "Request entity too large")
        pem = urllib.parse.unquote_to_bytes(request.body)
        try:
            (certificate,) = x509.load_pem_x509_certificates(pem)
            renewed = self._renew(certificate)
        except _UNREADABLE as error:
            raise bad_request("The certificate does not parse") from error
        if renewed is None:
            raise bad_request("The certificate is not of this VM")
        return renewed.public_bytes(Encoding.PEM).decode("ascii")

    def _judge(self, request: Request, versions: tuple[str, ...]) -> None:
        if request.parameter("api-version") not in versions:
            raise bad_api_version()
        if request.parameter("vmId").lower() != self._vm_id.lower():
            raise bad_request("vmId is not of this VM")
        if not _GUID.fullmatch(request.parameter("requestId")):
            raise bad_request("requestId is not a GUID")


def bad_request(message: str) -> RefusalError:
    """Return IMDS's refusal of a bad request."""
    return RefusalError(400, "", f"Bad request. {message}")


def bad_api_version() -> RefusalError:
    """Return IMDS's refusal of an api-version."""
    return bad_request(
        "api-version is invalid or was not specified in the request. For more"
        " information refer to aka.ms/azureimds"
    )
