"""Requests to the instance metadata service (IMDS) and to THIM, its certificate part.

IMDS answers on a link-local address, to requests with `Metadata: true` and without a
proxy. Requests are not retried here, because IMDS allows five requests per second for
the whole VM (learn.microsoft.com: azure/virtual-machines/instance-metadata-service).

`endorsements`, `ak_certificate` and `attestation.regions` interpret the responses.
"""

from __future__ import annotations

import re
import urllib.parse
import uuid
from http import HTTPStatus
from typing import TYPE_CHECKING

from skragent.errors import TransportError
from skragent.evidence.ak_certificate import QUERY_ID
from skragent.evidence.amd_certificate import MAX_CERTIFICATES_BYTES
from skragent.transport import HttpClient, find_retry_after, imds_hint

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

    from skragent.transport import HttpResponse

_CERTIFICATION = "/metadata/THIM/amd/certification"
_LOCATION = "/metadata/instance/compute/location?api-version=2021-01-01&format=text"
_VM_ID = "/metadata/instance/compute/vmId?api-version=2019-03-11&format=text"
# Undocumented: ImdsClient.cpp of Microsoft's cvm-guest-attestation.
_RENEW = "/metadata/THIM/tvm/certificate/renew"
_QUERY = "/metadata/THIM/tvm/certificate/query"
# The api-versions: THIM answers with the certificate, or with the id of a query.
_SYNCHRONOUS, _ASYNCHRONOUS = "2023-07-01", "2021-12-01"

_MAX_VALUE_BYTES = 1024
_LOCATION_FORM = re.compile(r"[A-Za-z0-9 ]{1,64}")
_GUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


class ImdsClient:
    """A client of IMDS. Each method sends one request of bounded time and length.

    Args:
        endpoint: `http://169.254.169.254`, or another origin.
        timeout_seconds: of one request.

    Every method raises TransportError: those of `HttpClient.request`, and
    transport.throttled, .server or .unexpected for a status other than 200.
    """

    def __init__(self, endpoint: str, timeout_seconds: float) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._http = HttpClient(timeout_seconds=timeout_seconds, use_proxies=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def dates(self) -> Mapping[str, str]:
        """The latest `Date` header of IMDS, by origin."""
        return self._http.dates

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def location(self) -> str:
        """Return the Azure region's name, such as `westeurope`."""
        return self._get_value(_LOCATION, "the VM's location", _LOCATION_FORM)

    def vm_id(self) -> str:
        """Return the VM's unique id, a GUID."""
        return self._get_value(_VM_ID, "the VM's id", _GUID)

    def endorsements(self) -> bytes:
        """Return THIM's response with the VCEK chain."""
        return self._send(_CERTIFICATION, MAX_CERTIFICATES_BYTES)

    def renew_ak_certificate(self, pem: str, vm_id: str) -> bytes:
        """Have THIM renew the AK certificate; return its response."""
        return self._post_renewal(pem, vm_id, _SYNCHRONOUS, MAX_CERTIFICATES_BYTES)

    def order_ak_certificate(self, pem: str, vm_id: str) -> str:
        """Have THIM renew the AK certificate later; return the id of the query."""
        body = self._post_renewal(pem, vm_id, _ASYNCHRONOUS, _MAX_VALUE_BYTES)
        return _expect(body, "the id of a renewal", QUERY_ID, strip=' \t\r\n"')

    def ordered_ak_certificate(self, query_id: str, vm_id: str) -> bytes:
        """Return the certificate of a query that is a minute old or older, as PEM."""
        query = {**_renewal_query(_ASYNCHRONOUS, vm_id), "guid": query_id}
        path = f"{_QUERY}?{urllib.parse.urlencode(query)}"
        return self._send(path, MAX_CERTIFICATES_BYTES)

    def _post_renewal(
        self, pem: str, vm_id: str, version: str, max_bytes: int
    ) -> bytes:
        path = f"{_RENEW}?{urllib.parse.urlencode(_renewal_query(version, vm_id))}"
        body = urllib.parse.quote(pem, safe="").encode("ascii")
        return self._send(path, max_bytes, body)

    def _get_value(self, path: str, what: str, form: re.Pattern[str]) -> str:
        return _expect(self._send(path, _MAX_VALUE_BYTES), what, form)

    def _send(self, path: str, max_bytes: int, body: bytes | None = None) -> bytes:
        headers = {"Metadata": "true"}
        if body is not None:  # the default of libcurl, and so of Microsoft's client
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        response = self._http.request(
            "GET" if body is None else "POST",
            self._endpoint + path,
            headers=headers,
            body=body,
            max_bytes=max_bytes,
        )
        if response.status != HTTPStatus.OK:
            raise _refusal(response, path)
        return response.body


def _renewal_query(version: str, vm_id: str) -> dict[str, str]:
    return {"api-version": version, "vmId": vm_id, "requestId": str(uuid.uuid4())}


def _expect(
    body: bytes, what: str, form: re.Pattern[str], strip: str | None = None
) -> str:
    text = body.decode("utf-8", "replace").strip(strip)
    if not form.fullmatch(text):
        raise TransportError(
            f"the response of IMDS is not {what}",
            code="transport.unexpected",
        )
    return text


def _refusal(response: HttpResponse, path: str) -> TransportError:
    status, path = response.status, path.partition("?")[0]
    retry_after = find_retry_after(status, response.headers)
    message = f"IMDS answered HTTP {status} to {path}"
    if hint := imds_hint(status):
        is_throttled = status == HTTPStatus.TOO_MANY_REQUESTS
        return TransportError(
            message,
            code="transport.throttled" if is_throttled else "transport.server",
            hint=hint,
            retry_after=retry_after,
        )
    return TransportError(
        message,
        code="transport.unexpected",
        hint="Check that `imds.endpoint` is Azure's instance metadata service.",
    )
