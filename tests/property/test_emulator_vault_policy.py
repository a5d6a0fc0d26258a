"""Release policies against a naive evaluator; total parsers of what clients send."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.azure_vm import (
    Json,
    SoftwareVm,
    b64,
    event_log,
)

from skragent.emulator.encoding import (
    NotBase64Error,
    base64url,
    decode_base64,
    dump_plain_json,
)
from skragent.emulator.keyvault.release_policy import parse_policy
from skragent.emulator.maa.appraisal.event_log import parse_event_log
from skragent.emulator.maa.appraisal.snp_report import parse_snp_report
from skragent.emulator.maa.appraisal.tpm_structures import (
    parse_certified_name,
    parse_public,
    parse_quote,
)
from skragent.emulator.service import RefusalError

if TYPE_CHECKING:
    from collections.abc import Callable

SCALARS = st.one_of(
    st.booleans(), st.integers(-3, 3), st.sampled_from(["true", "1", "a", "A", ""])
)
NAMES = st.sampled_from(["a", "b", "c"])
CLAIMS = st.recursive(
    SCALARS | st.none() | st.lists(SCALARS, max_size=2),
    lambda inner: st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
CONDITIONS = st.builds(
    lambda path, equals: {"claim": ".".join(path), "equals": equals},
    st.lists(NAMES, min_size=1, max_size=3),
    SCALARS,
)
GROUPS = st.recursive(
    st.builds(
        lambda name, members: {name: members},
        st.sampled_from(["allOf", "anyOf"]),
        st.lists(CONDITIONS, min_size=1, max_size=3),
    ),
    lambda inner: st.builds(
        lambda name, members: {name: members},
        st.sampled_from(["allOf", "anyOf"]),
        st.lists(CONDITIONS | inner, min_size=1, max_size=3),
    ),
    max_leaves=8,
)
ISSUERS = st.sampled_from(["https://one.test", "https://two.test", "https://one.test/"])


def _text(value: object) -> str | None:
    if value is True or value is False:
        return str(value).lower()
    return str(value) if isinstance(value, str | int) else None


def _naive(node: dict[str, Any], claims: Json) -> bool:
    if "allOf" in node:
        return all(_naive(n, claims) for n in node["allOf"])
    if "anyOf" in node:
        return any(_naive(n, claims) for n in node["anyOf"])
    for name in node["claim"].split("."):
        claims = claims.get(name) if isinstance(claims, dict) else None
    return claims is not None and _text(claims) == _text(node["equals"])


@given(
    st.lists(st.tuples(ISSUERS, GROUPS), min_size=1, max_size=3),
    st.dictionaries(NAMES, CLAIMS, max_size=3),
    ISSUERS,
)
def test_policy_holds_exactly_when_a_naive_reading_says_so(
    entries: list[tuple[str, dict[str, Any]]], claims: dict[str, Any], issuer: str
) -> None:
    claims |= {"iss": issuer}
    document = {
        "version": "1.0.0",
        "anyOf": [{"authority": url} | group for url, group in entries],
    }
    expected = any(
        url.rstrip("/") == issuer.rstrip("/") and _naive(group, claims)
        for url, group in entries
    )
    policy = parse_policy(json.dumps(document).encode())
    assert policy.is_satisfied_by(claims) is expected
    for stored in (policy.as_vault_stores_it(), policy.as_hsm_stores_it()):
        assert parse_policy(stored).is_satisfied_by(claims) is expected


JSON = st.recursive(
    st.none() | SCALARS | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["version", "anyOf", "allOf", "authority", "claim", "equals"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=10,
)


@given(JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40))
def test_anything_is_a_policy_or_is_refused(data: bytes) -> None:
    assert _refusal_of(parse_policy, data) in (None, (400, "BadParameter"))


def _refusal_of(
    parse: Callable[[bytes], object], data: bytes
) -> tuple[int, str] | None:
    """Return a parser's refusal, or None; other errors fail the test."""
    try:
        parse(data)
    except RefusalError as refusal:
        return refusal.status, refusal.code
    return None


PARSERS = {
    "event log": (parse_event_log, event_log()[0]),
    "report": (parse_snp_report, SoftwareVm().report(b"")),
    "public": (lambda d: parse_public(d, "key"), SoftwareVm().tpm_info()["AikPub"]),
    "quote": (parse_quote, SoftwareVm().tpm_info()["PcrQuote"]),
    "certify": (
        parse_certified_name,
        SoftwareVm().tpm_info()["EncKeyCertifyInfo"],
    ),
}


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.data())
@settings(max_examples=60)
def test_damaged_structures_are_read_or_refused(name: str, data: st.DataObject) -> None:
    parse, valid = PARSERS[name]
    cut = data.draw(st.integers(0, len(valid)))
    tail = data.draw(st.binary(max_size=24))
    damaged = bytearray(valid[:cut] + tail)
    for index in data.draw(st.lists(st.integers(0, 1200), max_size=3)):
        if index < len(damaged):
            damaged[index] ^= data.draw(st.integers(1, 255))
    refusal = _refusal_of(parse, bytes(damaged))
    assert refusal in (None, (400, "InvalidParameter"))


@given(st.integers(0, len(event_log()[0]) * 8 - 1))
def test_log_with_a_flipped_bit_never_says_that_secure_boot_was_off(bit: int) -> None:
    """A bit of an event's own bytes goes unseen: only its digest is extended."""
    log, pcrs = event_log()
    damaged = bytearray(log)
    damaged[bit // 8] ^= 1 << bit % 8

    def judge(data: bytes) -> None:
        parsed = parse_event_log(data)
        parsed.verify_replays_to(pcrs)
        assert parsed.secure_boot in (True, None)

    refusal = _refusal_of(judge, bytes(damaged))
    assert refusal in (None, (400, "InvalidParameter"))


@given(st.binary(max_size=64), st.booleans(), st.booleans())
def test_base64_is_decoded_in_all_four_spellings(
    data: bytes,
    url: bool,  # noqa: FBT001 - drawn
    padded: bool,  # noqa: FBT001 - drawn
) -> None:
    text = b64(data)
    if url:
        text = text.replace("+", "-").replace("/", "_")
    assert decode_base64(text if padded else text.rstrip("=")) == data


@given(st.text(max_size=20) | st.none() | st.integers())
def test_anything_is_base64_or_is_not(value: object) -> None:
    try:
        decode_base64(value)
    except NotBase64Error:
        return
    assert isinstance(value, str)


@given(JSON | st.text())
def test_plain_json_keeps_the_value_and_needs_no_url_alphabet(value: object) -> None:
    data = dump_plain_json(value)
    assert json.loads(data) == value
    assert not set(base64url(data)) & set("-_")
