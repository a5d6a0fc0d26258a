"""Trusted Hardware Identity Management: renews the certificate of a VM's AK.

Undocumented, so it is as Microsoft's own client asks for it (ImdsClient.cpp of
cvm-guest-attestation): at once (2023-07-01), or by an order that is asked for later
(2021-12-01). IMDS carries the requests here, by its rules.
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

# The client waits for 60 seconds before it asks.
_SECONDS_TO_MAKE: Final = 45.0
_MAX_ORDERS: Final = 16
_MAX_BODY_BYTES: Final = 16 * 1024
_GUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)

# What cryptography raises over certificates of others: of no version that there is, for
# a key that nobody knows.
_UNREADABLE: Final = (
    ValueError,
    TypeError,
    x509.InvalidVersion,
    UnsupportedAlgorithm,
)

Renew = Callable[[x509.Certificate], x509.Certificate | None]


class Thim:
    """Renews for one VM.

    Args:
        vm_id: the VM that it is for.
        renew: makes a certificate in another's place; None: that one is not the VM's.
        clock: the services' clock.
    """

    def __init__(self, vm_id: str, renew: Renew, clock: Clock) -> None:
        self._vm_id = vm_id
        self._renew = renew
        self._clock = clock
        self._orders: dict[str, tuple[float, str]] = {}  # GUID: ready at, PEM

    def renew(self, request: Request) -> dict[str, str]:
        """Answer a renewal at once: the members of the answer."""
        pem = self._make(request)
        return {"AkCertPem": pem, "CertQueryId": self._order(pem)}

    def order(self, request: Request) -> Response:
        """Answer a renewal that takes a while: by a GUID."""
        return Response.of_text(self._order(self._make(request)))

    def query(self, request: Request) -> Response:
        """Answer with what was ordered, once it is made."""
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
    """Refuse as IMDS does."""
    return RefusalError(400, "", f"Bad request. {message}")


def bad_api_version() -> RefusalError:
    """Refuse an api-version as IMDS does."""
    return bad_request(
        "api-version is invalid or was not specified in the request. For more"
        " information refer to aka.ms/azureimds"
    )
