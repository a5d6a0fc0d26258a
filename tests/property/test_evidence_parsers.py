"""Every parser returns a value or raises an AgentError, for any bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from support.evidence import (
    build_hcl,
    build_report,
    certify_message,
    claims,
    flip,
    mint_world,
    quote_message,
    tpm2b_public,
    wrapping_key_public,
)
from support.evidence_amd import NOW, mint_chain, parse_pem_chain, rsa_key, thim_answer

from skragent.cli.report_input import parse_quote_file
from skragent.errors import AgentError, EndorsementsError
from skragent.evidence.ak_certificate import cut_padding, is_ak_certificate_provisioned
from skragent.evidence.amd_certificate import load_certificates
from skragent.evidence.endorsements import (
    parse_thim_response,
    verify_endorsements,
)
from skragent.evidence.hcl import parse_hcl_report, parse_runtime_data
from skragent.evidence.quote import SignedAttest, parse_certification, parse_quote
from skragent.evidence.snp import parse_snp_report
from skragent.evidence.snp_signature import verify_report_signature
from skragent.evidence.tcglog import trim_tcg_log
from skragent.evidence.tpm_public import parse_tpm2b_public
from skragent.evidence.verification import verify_evidence
from skragent.transport import parse_retry_after

QUOTE_FILE = json.dumps(
    {"message": quote_message().hex(), "signature": "00", "pcrs": ["00"] * 24}
).encode()

# Each parser with one of its values, to be cut and bent.
PARSERS: list[tuple[Callable[[bytes], object], bytes]] = [
    (parse_snp_report, build_report()),
    (parse_hcl_report, build_hcl()),
    (parse_runtime_data, json.dumps(claims()).encode()),
    (parse_tpm2b_public, tpm2b_public(rsa_key("AK"))),
    (parse_quote, quote_message()),
    (parse_certification, certify_message(wrapping_key_public())),
    (parse_thim_response, json.dumps(thim_answer(mint_chain())).encode()),
    (parse_pem_chain, mint_chain().pem),
    (parse_quote_file, QUOTE_FILE),
]
NAMED = pytest.mark.parametrize(
    ("parse", "valid"), PARSERS, ids=[parse.__name__ for parse, _ in PARSERS]
)


def parses(parse: Callable[[bytes], object], data: bytes) -> bool:
    try:
        parse(data)
    except AgentError:
        return False
    return True


@NAMED
@settings(max_examples=50)
@given(data=st.binary(max_size=3000))
def test_arbitrary_bytes_give_a_value_or_our_error(
    parse: Callable[[bytes], object], valid: bytes, data: bytes
) -> None:
    parses(parse, data)
    parses(parse, valid[: len(data) // 2] + data)


@NAMED
@settings(max_examples=60)
@given(data=st.data())
def test_a_bent_value_gives_a_value_or_our_error(
    parse: Callable[[bytes], object], valid: bytes, data: st.DataObject
) -> None:
    bent = bytearray(valid)
    for _ in range(data.draw(st.integers(1, 4))):
        bent[data.draw(st.integers(0, len(valid) - 1))] = data.draw(st.integers(0, 255))
    parses(parse, bytes(bent))


@pytest.mark.parametrize(
    ("parse", "valid"),
    [
        pytest.param(parse_snp_report, build_report(), id="snp"),
        pytest.param(parse_hcl_report, build_hcl(padding_bytes=0), id="hcl"),
        pytest.param(parse_runtime_data, json.dumps(claims()).encode(), id="claims"),
        pytest.param(parse_tpm2b_public, wrapping_key_public(), id="public"),
        pytest.param(parse_quote, quote_message(), id="quote"),
        pytest.param(
            parse_certification, certify_message(wrapping_key_public()), id="certify"
        ),
    ],
)
def test_a_value_cut_short_anywhere_is_refused(
    parse: Callable[[bytes], object], valid: bytes
) -> None:
    assert parses(parse, valid)
    assert not any(parses(parse, valid[:size]) for size in range(len(valid)))


@given(st.binary(max_size=500))
def test_trimming_any_log_gives_a_log_that_trims_to_itself(data: bytes) -> None:
    trimmed = trim_tcg_log(data)
    assert trim_tcg_log(trimmed) == trimmed


@given(st.binary(max_size=300))
def test_any_ak_certificate_is_judged(data: bytes) -> None:
    assert data.startswith(cut_padding(data))
    assert is_ak_certificate_provisioned(data) in {True, False}


@given(st.text(max_size=30))
def test_any_retry_after_is_none_or_not_negative(text: str) -> None:
    seconds = parse_retry_after(text)
    assert seconds is None or seconds >= 0


@settings(max_examples=60)
@given(bit=st.integers(0, 1184 * 8 - 1))
def test_no_bit_of_a_report_can_be_flipped(bit: int) -> None:
    with pytest.raises(AgentError):
        verify_report_signature(
            parse_snp_report(flip(build_report(), bit)), mint_chain().signer
        )


def verify_chain_with(which: str, der: bytes) -> None:
    """Verify the world's chain with one certificate exchanged."""
    world = mint_world()
    (exchanged,) = load_certificates(der)
    changes: dict[str, Any] = {which: exchanged}
    chain = replace(world.evidence.endorsements, **changes)
    report = world.evidence.hcl_report.snp_report
    verify_endorsements(chain, report, now=NOW, roots=world.roots)


@settings(max_examples=60)
@given(data=st.data(), which=st.sampled_from(["signer", "intermediate", "root"]))
def test_no_bit_of_a_certificate_can_be_flipped(
    data: st.DataObject, which: str
) -> None:
    der = getattr(mint_chain(), which).public_bytes(Encoding.DER)
    bit = data.draw(st.integers(0, len(der) * 8 - 1))
    verify_chain_with(which, der)
    with pytest.raises(EndorsementsError):
        verify_chain_with(which, flip(der, bit))


@settings(max_examples=60)
@given(data=st.data())
def test_no_bit_of_what_the_ak_signed_can_be_flipped(data: st.DataObject) -> None:
    world = mint_world()
    name = data.draw(st.sampled_from(["quote", "wrapping_key_certification"]))
    signed: SignedAttest = getattr(world.evidence, name)
    bit = data.draw(st.integers(0, len(signed.message) * 8 - 1))
    forged = SignedAttest(flip(signed.message, bit), signed.signature)
    with pytest.raises(AgentError) as caught:
        verify_evidence(world.but(**{name: forged}), now=NOW, roots=world.roots)
    assert caught.value.code == "evidence.signature"
