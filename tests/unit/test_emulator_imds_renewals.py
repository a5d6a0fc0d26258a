"""The emulated THIM renews the AK's certificate as the reference client asks it to."""

from __future__ import annotations

import base64
import json
import urllib.parse
import uuid
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from support.azure import ask, make_azure
from support.azure_vm import VM_ID, ak_certificate

if TYPE_CHECKING:
    from pathlib import Path

    from skragent.emulator.azure import Azure
    from skragent.emulator.service import Response

AT_ONCE = "2023-07-01"
LATER = "2021-12-01"
AK = ak_certificate("old").public_bytes(Encoding.PEM)


@pytest.fixture
def azure(tmp_path: Path) -> Azure:
    azure = make_azure(tmp_path)
    azure.imds.is_limited = False
    return azure


def query(version: str, **changes: str) -> str:
    values = {
        "api-version": version,
        "vmId": VM_ID.lower(),
        "requestId": str(uuid.uuid4()),
    }
    return urllib.parse.urlencode(values | changes)


def renew(
    azure: Azure, version: str = AT_ONCE, pem: bytes = AK, **changes: str
) -> Response:
    target = f"/metadata/THIM/tvm/certificate/renew?{query(version, **changes)}"
    body = urllib.parse.quote(pem, safe="").encode()
    headers = {"metadata": "true"}
    return ask(azure.imds, "POST", target, body, headers)


def fetch(azure: Azure, guid: str) -> Response:
    target = f"/metadata/THIM/tvm/certificate/query?{query(LATER)}&guid={guid}"
    return ask(azure.imds, "GET", target, headers={"metadata": "true"})


def subject(pem: bytes) -> str:
    return x509.load_pem_x509_certificate(pem).subject.rfc4514_string()


def test_a_certificate_of_the_vms_ak_is_renewed_at_once(azure: Azure) -> None:
    answer = renew(azure)
    assert answer.status == 200
    members = json.loads(answer.body)
    assert subject(members["AkCertPem"].encode()) == "CN=renewed"
    assert uuid.UUID(members["CertQueryId"])


def test_an_order_is_made_after_a_while(azure: Azure) -> None:
    guid = renew(azure, LATER).body.decode()
    assert fetch(azure, guid).status == 404
    azure.clock.skew_seconds += 60
    assert subject(fetch(azure, guid).body) == "CN=renewed"


def test_an_unknown_order_is_not_found(azure: Azure) -> None:
    assert fetch(azure, str(uuid.uuid4())).status == 404


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"garbage",
        ak_certificate("x", "another").public_bytes(Encoding.PEM),
        2 * AK,
    ],
    ids=["empty", "garbage", "of another AK", "two"],
)
def test_other_certificates_than_the_aks_are_refused(azure: Azure, pem: bytes) -> None:
    assert renew(azure, pem=pem).status == 400


@pytest.mark.parametrize(
    "changes",
    [
        {"api-version": "2020-01-01"},
        {"vmId": str(uuid.uuid4())},
        {"vmId": ""},
        {"requestId": "7"},
    ],
)
def test_a_wrong_parameter_is_refused(azure: Azure, changes: dict[str, str]) -> None:
    assert renew(azure, AT_ONCE, AK, **changes).status == 400


def test_the_header_rules_hold_for_renewals_too(azure: Azure) -> None:
    target = f"/metadata/THIM/tvm/certificate/renew?{query(AT_ONCE)}"
    assert ask(azure.imds, "POST", target, b"x").status == 400


def test_other_paths_refuse_post(azure: Azure) -> None:
    target = "/metadata/THIM/amd/certification"
    answer = ask(azure.imds, "POST", target, b"x", {"metadata": "true"})
    assert answer.status == 405


def test_old_orders_are_forgotten(azure: Azure) -> None:
    first, *_, last = [renew(azure, LATER).body.decode() for _ in range(17)]
    azure.clock.skew_seconds += 60
    assert (fetch(azure, first).status, fetch(azure, last).status) == (404, 200)


@pytest.mark.parametrize(
    ("found", "changed"),
    [
        (b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x42"),  # a version 67
        (bytes.fromhex("2a864886f70d010101"), bytes.fromhex("2a864886f70d017f7f")),
    ],
    ids=["version", "key"],
)
def test_a_certificate_from_the_future_is_a_bad_request(
    azure: Azure, found: bytes, changed: bytes
) -> None:
    der = ak_certificate("old").public_bytes(Encoding.DER)
    assert found in der
    text = base64.b64encode(der.replace(found, changed)).decode()
    pem = f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----"
    assert renew(azure, pem=pem.encode()).status == 400
