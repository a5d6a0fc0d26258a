"""The instance metadata service: where this VM is, who it is, who vouches for it.

IMDS and THIM (its attestation part) answer on a link-local address, to requests with
`Metadata: true` that came through no proxy. Nothing here is retried: IMDS allows five
requests a second for the whole VM.

Not here: what the answers mean (`endorsements`, `ak_certificate`,
`attestation.regions`).
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
_AT_ONCE, _LATER = "2023-07-01", "2021-12-01"  # the api-versions of the two forms

_MAX_VALUE_BYTES = 1024
_LOCATION_FORM = re.compile(r"[A-Za-z0-9 ]{1,64}")
_GUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


class ImdsClient:
    """Asks IMDS; every method once, with bounded time and bytes.

    Args:
        endpoint: `http://169.254.169.254`, or another origin.
        timeout_seconds: for one request.

    Every method raises TransportError: those of `HttpClient.request`, and
    transport.throttled, .server or .unexpected for what is no answer.
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
        """Return what IMDS last said in `Date`, by its origin."""
        return self._http.dates

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def location(self) -> str:
        """Ask for the Azure region's name, such as `westeurope`."""
        return self._ask_value(_LOCATION, "the VM's location", _LOCATION_FORM)

    def vm_id(self) -> str:
        """Ask for the VM's unique id, a GUID."""
        return self._ask_value(_VM_ID, "the VM's id", _GUID)

    def endorsements(self) -> bytes:
        """Ask THIM for the VCEK chain; gives its raw answer."""
        return self._ask(_CERTIFICATION, MAX_CERTIFICATES_BYTES)

    def renew_ak_certificate(self, pem: str, vm_id: str) -> bytes:
        """Have THIM renew the AK's certificate at once; gives its raw answer."""
        return self._post_renewal(pem, vm_id, _AT_ONCE, MAX_CERTIFICATES_BYTES)

    def order_ak_certificate(self, pem: str, vm_id: str) -> str:
        """Have THIM renew the AK's certificate later on; gives the query's GUID."""
        body = self._post_renewal(pem, vm_id, _LATER, _MAX_VALUE_BYTES)
        return _expect(body, "the id of a renewal", QUERY_ID, strip=' \t\r\n"')

    def ordered_ak_certificate(self, query_id: str, vm_id: str) -> bytes:
        """Ask for the certificate that was ordered a minute ago or earlier: PEM."""
        query = {**_renewal_query(_LATER, vm_id), "guid": query_id}
        path = f"{_QUERY}?{urllib.parse.urlencode(query)}"
        return self._ask(path, MAX_CERTIFICATES_BYTES)

    def _post_renewal(
        self, pem: str, vm_id: str, version: str, max_bytes: int
    ) -> bytes:
        path = f"{_RENEW}?{urllib.parse.urlencode(_renewal_query(version, vm_id))}"
        body = urllib.parse.quote(pem, safe="").encode("ascii")
        return self._ask(path, max_bytes, body)

    def _ask_value(self, path: str, what: str, form: re.Pattern[str]) -> str:
        return _expect(self._ask(path, _MAX_VALUE_BYTES), what, form)

    def _ask(self, path: str, max_bytes: int, body: bytes | None = None) -> bytes:
        headers = {"Metadata": "true"}
        if body is not None:  # as libcurl says without being told
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
            f"IMDS answers with something that is not {what}",
            code="transport.unexpected",
        )
    return text


def _refusal(response: HttpResponse, path: str) -> TransportError:
    status, path = response.status, path.partition("?")[0]
    retry_after = find_retry_after(status, response.headers)
    message = f"IMDS answers HTTP {status} to {path}"
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
