"""Evidence as a whole: it verifies; each exchanged part is refused with its code."""

from __future__ import annotations

from typing import Any

import pytest
from support.evidence import (
    PCRS,
    build_hcl,
    certify_message,
    mint_world,
    quote_message,
    sign_attest,
    tpm2b_public,
    wrapping_key_public,
)
from support.evidence_amd import CHIP_ID, NOW, mint_chain, rsa_key

from skragent.errors import AgentError
from skragent.evidence.hcl import parse_hcl_report
from skragent.evidence.verification import verify_evidence

OTHER_PCRS = (bytes(32), *PCRS[1:])
FREE_KEY = tpm2b_public(rsa_key("wrapping"), attributes=0x00020472, scheme=b"\x00\x10")


def test_evidence_of_a_sound_machine_verifies_with_a_sentence_for_each() -> None:
    world = mint_world()
    sentences = verify_evidence(world.evidence, now=NOW, roots=world.roots)
    assert len(sentences) == 6
    assert "REPORT_DATA is the hash of the runtime data" in sentences


def test_evidence_is_refused_under_amds_own_roots() -> None:
    with pytest.raises(AgentError) as caught:
        verify_evidence(mint_world().evidence, now=NOW)
    assert caught.value.code == "endorsements.root"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        pytest.param(
            {"hcl_report": parse_hcl_report(build_hcl().replace(b"ABAB", b"ABAC", 1))},
            "evidence.binding",
            id="runtime-data",
        ),
        pytest.param(
            {"ak_public": tpm2b_public(rsa_key("EK"))}, "evidence.ak_mismatch", id="ak"
        ),
        pytest.param(
            {"endorsements": mint_chain(hw_id=CHIP_ID[::-1])},
            "endorsements.chip",
            id="endorsements",
        ),
        pytest.param({"pcrs": OTHER_PCRS}, "evidence.quote", id="pcrs"),
        pytest.param(
            {"quote": sign_attest(quote_message(OTHER_PCRS))},
            "evidence.quote",
            id="quote",
        ),
        pytest.param(
            {"wrapping_key_public": wrapping_key_public(OTHER_PCRS)},
            "evidence.quote",
            id="key-of-other-pcrs",
        ),
        pytest.param(
            {"wrapping_key_public": FREE_KEY}, "evidence.quote", id="key-of-no-policy"
        ),
        pytest.param(
            {"wrapping_key_certification": sign_attest(certify_message(FREE_KEY))},
            "evidence.quote",
            id="certification",
        ),
    ],
)
def test_a_part_of_another_machine_is_refused(
    changes: dict[str, Any], code: str
) -> None:
    world = mint_world()
    with pytest.raises(AgentError) as caught:
        verify_evidence(world.but(**changes), now=NOW, roots=world.roots)
    assert caught.value.code == code


def test_a_report_that_was_changed_is_refused() -> None:
    data = bytearray(build_hcl())
    data[0x20 + 0x90] ^= 1  # the measurement
    world = mint_world()
    evidence = world.but(hcl_report=parse_hcl_report(bytes(data)))
    with pytest.raises(AgentError) as caught:
        verify_evidence(evidence, now=NOW, roots=world.roots)
    assert caught.value.code == "evidence.signature"
