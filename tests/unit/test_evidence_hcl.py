"""The HCL report: both headers, three hashes, old and new runtime data."""

from __future__ import annotations

import json
import struct

import pytest
from support.evidence import build_hcl, claims, jwk
from support.evidence_amd import rsa_key

from skragent.errors import (
    BindingError,
    MalformedEvidenceError,
    UnsupportedEvidenceError,
)
from skragent.evidence.hcl import (
    MAX_HCL_REPORT_BYTES,
    parse_hcl_report,
    parse_runtime_data,
    verify_runtime_data_binding,
)


def patched(offset: int, value: int) -> bytes:
    """A valid report with one 32-bit field of its headers changed."""
    data = bytearray(build_hcl())
    struct.pack_into("<I", data, offset, value)
    return bytes(data)


@pytest.mark.parametrize("version", [1, 2])
def test_both_header_versions_parse(version: int) -> None:
    assert parse_hcl_report(build_hcl(version=version)).version == version


@pytest.mark.parametrize("hash_type", [1, 2, 3])
def test_runtime_data_are_bound_by_each_hash(hash_type: int) -> None:
    verify_runtime_data_binding(parse_hcl_report(build_hcl(hash_type=hash_type)))


def test_a_report_without_padding_parses() -> None:
    assert parse_hcl_report(build_hcl(padding_bytes=0)).runtime_data.vm_unique_id


def test_runtime_data_keep_their_exact_bytes() -> None:
    raw = json.dumps(claims(), indent=3).encode()
    assert parse_hcl_report(build_hcl(raw)).runtime_data.raw == raw


@pytest.mark.parametrize(
    ("report_type", "name"), [(1, "VBS"), (3, "TVM"), (4, "TDX"), (5, "CCA")]
)
def test_another_hardware_report_is_unsupported_by_name(
    report_type: int, name: str
) -> None:
    with pytest.raises(UnsupportedEvidenceError) as caught:
        parse_hcl_report(build_hcl(report_type=report_type))
    assert caught.value.code == "evidence.unsupported"
    assert name in caught.value.message


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"HCLB" + build_hcl()[4:], id="signature"),
        pytest.param(patched(0x8, 1184), id="used-bytes-as-documented-wrongly"),
        pytest.param(patched(0x4C0, 1), id="request-data-size"),
        pytest.param(patched(0x4C8, 0), id="report-type-0"),
        pytest.param(patched(0x4C8, 6), id="report-type-6"),
        pytest.param(patched(0x4CC, 4), id="hash-type"),
        pytest.param(patched(0x4D0, 0xFFFFFFFF), id="claims-beyond-the-end"),
        pytest.param(build_hcl() + b"x", id="no-padding-after-it"),
        pytest.param(build_hcl(padding_bytes=MAX_HCL_REPORT_BYTES), id="too-long"),
    ],
)
def test_a_broken_report_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedEvidenceError) as caught:
        parse_hcl_report(data)
    assert caught.value.code == "evidence.malformed"


@pytest.mark.parametrize("version", [3, 0xFFFFFFFF])
def test_a_newer_header_is_decoded_with_the_newest_known_layout(version: int) -> None:
    report = parse_hcl_report(build_hcl(version=version))
    assert report.version == version
    assert f"version {version}, decoded as version 2" in report.version_note
    verify_runtime_data_binding(report)


@pytest.mark.parametrize("version", [1, 2])
def test_a_known_header_needs_no_note(version: int) -> None:
    assert parse_hcl_report(build_hcl(version=version)).version_note == ""


@pytest.mark.parametrize(
    "data",
    [
        build_hcl(version=0),
        build_hcl(request_version=0),
        build_hcl(request_version=2),
        build_hcl(request_version=3),
    ],
    ids=["hcl-0", "request-0", "request-2", "request-3"],
)
def test_a_layout_that_is_another_one_is_unsupported(data: bytes) -> None:
    with pytest.raises(UnsupportedEvidenceError) as caught:
        parse_hcl_report(data)
    assert caught.value.code == "evidence.unsupported"


def test_changed_runtime_data_are_not_bound() -> None:
    data = build_hcl().replace(b'"secure-boot": true', b'"secure-boot":  1.0')
    report = parse_hcl_report(data)
    with pytest.raises(BindingError) as caught:
        verify_runtime_data_binding(report)
    assert caught.value.code == "evidence.binding"


def test_a_hash_of_another_type_does_not_bind() -> None:
    report = parse_hcl_report(patched(0x4CC, 2))
    with pytest.raises(BindingError) as caught:
        verify_runtime_data_binding(report)
    assert caught.value.code == "evidence.binding"


def test_a_tail_of_report_data_that_is_not_zero_does_not_bind() -> None:
    data = bytearray(build_hcl())
    data[0x20 + 0x50 + 63] = 1
    with pytest.raises(BindingError) as caught:
        verify_runtime_data_binding(parse_hcl_report(bytes(data)))
    assert caught.value.code == "evidence.binding"


def parse(**changes: object) -> object:
    return parse_runtime_data(json.dumps(claims(**changes)).encode())


def test_new_runtime_data_have_everything() -> None:
    found = parse_runtime_data(json.dumps(claims()).encode())
    assert found.ak_public.modulus == rsa_key("AK").public_key().public_numbers().n
    assert found.ek_public is not None
    assert found.is_secure_boot is True
    assert found.user_data == b"\xab" * 64


def test_old_runtime_data_have_neither_ek_nor_user_data() -> None:
    old = claims(keys=[jwk(rsa_key("AK"), "HCLAkPub")])
    del old["user-data"]
    found = parse_runtime_data(json.dumps(old).encode())
    assert found.ek_public is None
    assert found.user_data is None


def test_user_data_in_lower_case_are_the_same() -> None:
    found = parse_runtime_data(json.dumps(claims(**{"user-data": "ab" * 64})).encode())
    assert found.user_data == b"\xab" * 64


def test_empty_user_data_are_none() -> None:
    found = parse_runtime_data(json.dumps(claims(**{"user-data": ""})).encode())
    assert found.user_data is None


def test_unknown_members_are_let_be() -> None:
    found = parse_runtime_data(json.dumps(claims(tomorrow={"x": [1]})).encode())
    assert found.vm_unique_id == "26F8BC30-774E-4290-8E7A-535F3B672AEE"


def test_absent_configuration_leaves_its_claims_unknown() -> None:
    bare = claims()
    del bare["vm-configuration"]
    found = parse_runtime_data(json.dumps(bare).encode())
    assert found.vm_unique_id == ""
    assert found.is_secure_boot is None


AK = jwk(rsa_key("AK"), "HCLAkPub")
EK = jwk(rsa_key("EK"), "HCLEkPub")


@pytest.mark.parametrize(
    "ek",
    [
        {"kid": "HCLEkPub"},
        {"kid": "HCLEkPub", "kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"},
        EK | {"kty": "EC"},
        EK | {"n": None},
        EK | {"n": "*"},
        EK | {"e": 5},
        EK | {"n": "AQAB"},
    ],
)
def test_an_ek_of_another_type_is_unknown(ek: object) -> None:
    found = parse_runtime_data(json.dumps(claims(keys=[AK, ek])).encode())
    assert found.ek_public is None
    assert found.ak_public.modulus == rsa_key("AK").public_key().public_numbers().n


@pytest.mark.parametrize("entry", [None, 1, "HCLAkPub", [], {}, {"kid": None}])
def test_an_odd_entry_among_the_keys_is_ignored(entry: object) -> None:
    found = parse_runtime_data(json.dumps(claims(keys=[entry, AK, EK])).encode())
    assert found.ek_public is not None


@pytest.mark.parametrize(
    "value", [None, "zz", "ab" * 63, "ab" * 65, 7, [], {}, True, "é" * 128]
)
def test_user_data_of_another_form_are_unknown(value: object) -> None:
    raw = json.dumps(claims(**{"user-data": value})).encode()
    assert parse_runtime_data(raw).user_data is None


@pytest.mark.parametrize("value", [None, 1, "text", [], True])
def test_a_configuration_of_another_type_leaves_its_claims_unknown(
    value: object,
) -> None:
    found = parse_runtime_data(
        json.dumps(claims(**{"vm-configuration": value})).encode()
    )
    assert found.vm_unique_id == ""
    assert found.is_secure_boot is None
    assert found.vm_configuration == {}


@pytest.mark.parametrize("value", [None, 1, [], {}, True])
def test_members_of_another_type_in_the_configuration_are_unknown(
    value: object,
) -> None:
    odd = {"vmUniqueId": value, "secure-boot": value if value is not True else "yes"}
    found = parse_runtime_data(json.dumps(claims(**{"vm-configuration": odd})).encode())
    assert found.vm_unique_id == ""
    assert found.is_secure_boot is None


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b"[" * 100_000,
        json.dumps(claims(keys={})).encode(),
        json.dumps(claims(keys=[{"kid": []}, 1])).encode(),
        json.dumps(claims(keys=[AK | {"kty": "EC"}])).encode(),
        json.dumps(claims(keys=[AK | {"n": "AQAB"}])).encode(),
        json.dumps(claims(keys=[AK | {"n": "*" * 342}])).encode(),
        json.dumps(claims(keys=[AK | {"n": "é" * 342}])).encode(),
        json.dumps(claims(keys=[AK | {"n": 1}])).encode(),
        json.dumps(claims(keys=[AK | {"e": ""}])).encode(),
        json.dumps(claims(keys=[AK | {"e": "AQABAQAB"}])).encode(),
    ],
)
def test_broken_runtime_data_are_malformed(raw: bytes) -> None:
    with pytest.raises(MalformedEvidenceError) as caught:
        parse_runtime_data(raw)
    assert caught.value.code == "evidence.malformed"
