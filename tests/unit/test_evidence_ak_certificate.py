"""The AK certificate: its end, its renewal and its successor."""

from __future__ import annotations

import base64
import json
from datetime import UTC, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from support.evidence_amd import NOW, mint_certificate, rsa_key

from skragent.errors import EndorsementsError
from skragent.evidence.ak_certificate import (
    encode_request,
    parse_renewal_response,
    parse_successor,
    read_end,
)
from skragent.releaser.ak_renewal import describe_ak_certificate

CA = "Global Virtual TPM CA - 01"
GUID = "6F0E8C1D-0000-4000-8000-00000000000A"
DAY = 86400


def mint(
    *, days: float = 100, key: str = "AK", issuer: str = CA, begins: float = -1000
) -> x509.Certificate:
    return mint_certificate(
        "AK",
        issuer,
        key=rsa_key(key),
        valid_from=NOW + timedelta(days=begins),
        valid_until=NOW + timedelta(days=days),
    )


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(c.public_bytes(Encoding.PEM) for c in certificates)


PRESENT = der(mint(days=30)) + bytes(500)


def code_of(pem: bytes, present: bytes = PRESENT) -> str:
    with pytest.raises(EndorsementsError) as caught:
        parse_successor(pem, present, NOW)
    return caught.value.code


def test_the_end_is_read_past_the_indexs_padding() -> None:
    assert read_end(PRESENT) == (NOW + timedelta(days=30)).replace(microsecond=0)


@pytest.mark.parametrize("data", [b"", b"\x30\x03abc", bytes(4096)])
def test_bytes_that_are_not_a_certificate_have_no_end(data: bytes) -> None:
    assert read_end(data) is None


@pytest.mark.parametrize(
    ("days", "is_due"), [(-1, True), (90, True), (90.001, False), (365, False)]
)
def test_a_renewal_is_due_within_90_days_of_the_end(
    days: float, *, is_due: bool
) -> None:
    data = der(mint(days=days))
    described = describe_ak_certificate(data, NOW.timestamp(), lambda: True)
    assert described is not None
    assert described.is_renewal_due is is_due


def test_the_owner_of_the_index_is_read_only_near_the_end() -> None:
    def fail() -> bool:
        raise AssertionError("asked")

    assert describe_ak_certificate(der(mint()), NOW.timestamp(), fail) is not None


def test_a_certificate_of_the_paravisor_is_not_due_for_renewal() -> None:
    described = describe_ak_certificate(PRESENT, NOW.timestamp(), lambda: False)
    assert described is not None
    assert not described.is_renewal_due
    assert described.expires_at == (NOW + timedelta(days=30)).timestamp() // 1


def test_thim_is_shown_the_certificate_as_the_reference_client_writes_it() -> None:
    lines = encode_request(PRESENT).split("\n")
    assert lines[0] == "-----BEGIN CERTIFICATE-----"
    assert lines[2:] == ["-----END CERTIFICATE-----"]
    assert base64.b64decode(lines[1], validate=True) + bytes(500) == PRESENT


def test_a_response_with_a_certificate_returns_it() -> None:
    body = json.dumps({"AkCertPem": "pem", "CertQueryId": GUID, "More": 1})
    assert parse_renewal_response(body.encode()) == (b"pem", "")


@pytest.mark.parametrize(
    "answer", [{"CertQueryId": GUID}, {"CertQueryId": GUID, "AkCertPem": ""}]
)
def test_a_response_without_a_certificate_returns_a_query_id(
    answer: dict[str, str],
) -> None:
    assert parse_renewal_response(json.dumps(answer).encode()) == (b"", GUID)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"[]", b"\xff", b"{}", b'{"CertQueryId": "../x"}'),
        *(b'{"AkCertPem": 7}', b'{"CertQueryId": ""}', b"[" * 10_000),
    ],
)
def test_a_response_with_neither_is_malformed(body: bytes) -> None:
    with pytest.raises(EndorsementsError) as caught:
        parse_renewal_response(body)
    assert caught.value.code == "endorsements.malformed"


def test_a_longer_lived_certificate_for_the_same_key_is_a_successor() -> None:
    new = mint(days=400)
    assert parse_successor(pem(new), PRESENT, NOW) == der(new)


def test_carriage_returns_do_not_matter() -> None:
    new = mint(days=400)
    assert parse_successor(pem(new).replace(b"\n", b"\r\n"), PRESENT, NOW) == der(new)


@pytest.mark.parametrize(
    "new",
    [
        mint(days=400, key="another"),
        mint(days=30),
        mint(days=29),
        mint(days=400, issuer="MICROSOFT AZURE TRUSTED VM RSA 2048"),
        mint(days=400, begins=1),
    ],
    ids=["another key", "the same", "sooner", "placeholder", "not yet valid"],
)
def test_a_worse_certificate_is_rejected(new: x509.Certificate) -> None:
    assert code_of(pem(new)) == "endorsements.ak_certificate"


@pytest.mark.parametrize("text", [b"", b"garbage", pem(mint(days=400), mint(days=500))])
def test_a_successor_must_be_one_certificate(text: bytes) -> None:
    assert code_of(text) == "endorsements.malformed"


def test_a_malformed_present_certificate_has_no_successor() -> None:
    assert code_of(pem(mint(days=400)), b"\x30\x03abc") == "endorsements.malformed"


@given(st.binary(max_size=300))
def test_no_bytes_get_past_the_parsers(data: bytes) -> None:
    for parse in (
        parse_renewal_response,
        lambda raw: parse_successor(raw, PRESENT, NOW),
    ):
        with pytest.raises(EndorsementsError):
            parse(data)
    assert read_end(data) is None


def test_the_end_is_in_utc() -> None:
    end = read_end(PRESENT)
    assert end is not None
    assert end.tzinfo is UTC
