"""Quotes, certifications and public areas: valid ones, and one fault each."""

from __future__ import annotations

import hashlib

import pytest
from support.evidence import (
    PCRS,
    certify_message,
    quote_message,
    sign_attest,
    tpm2b_public,
    wrapping_key_public,
)
from support.evidence_amd import rsa_key

from skragent.errors import (
    BindingError,
    MalformedEvidenceError,
    UnsupportedEvidenceError,
)
from skragent.evidence.quote import (
    SignedAttest,
    compute_policy_pcr,
    parse_certification,
    parse_quote,
    verify_certification,
    verify_quote,
)
from skragent.evidence.tpm_public import (
    WRAPPING_KEY_ATTRIBUTES,
    RsaPublic,
    encode_wrapping_key_template,
    parse_tpm2b_public,
)

AK = parse_tpm2b_public(tpm2b_public(rsa_key("AK")))
KEY = parse_tpm2b_public(wrapping_key_public())


def refusal(quote: SignedAttest, qualifying_data: bytes = b"") -> str:
    with pytest.raises(BindingError) as caught:
        verify_quote(quote, AK.rsa, PCRS, qualifying_data=qualifying_data)
    return caught.value.code


def test_a_quote_over_pcr_0_to_7_verifies() -> None:
    verify_quote(sign_attest(quote_message()), AK.rsa, PCRS)


def test_a_quote_with_the_expected_qualifying_data_verifies() -> None:
    quote = sign_attest(quote_message(qualifying_data=b"fresh"))
    verify_quote(quote, AK.rsa, PCRS, qualifying_data=b"fresh")


def test_a_quote_with_other_qualifying_data_is_refused() -> None:
    quote = sign_attest(quote_message(qualifying_data=b"stale"))
    assert refusal(quote, b"fresh") == "evidence.quote"


def test_a_quote_of_other_pcr_values_is_refused() -> None:
    other = (hashlib.sha256(b"other").digest(), *PCRS[1:])
    assert refusal(sign_attest(quote_message(other))) == "evidence.quote"


@pytest.mark.parametrize("selection", [b"\xff\x01\x00", b"\x7f\x00\x00", b""])
def test_a_quote_over_other_pcrs_is_refused(selection: bytes) -> None:
    quote = sign_attest(quote_message(selection=selection))
    assert refusal(quote) == "evidence.quote"


def test_a_quote_over_another_bank_is_refused() -> None:
    quote = sign_attest(quote_message(algorithm=0x000C))
    assert refusal(quote) == "evidence.quote"


def test_a_quote_signed_by_another_key_is_refused() -> None:
    quote = sign_attest(quote_message(), "EK")
    assert refusal(quote) == "evidence.signature"


def test_an_invalid_ak_is_refused() -> None:
    with pytest.raises(BindingError) as caught:
        verify_quote(sign_attest(quote_message()), RsaPublic(4, 2), PCRS)
    assert caught.value.code == "evidence.signature"


def test_the_aks_own_certification_verifies() -> None:
    certification = sign_attest(certify_message(wrapping_key_public()))
    verify_certification(certification, AK.rsa, KEY)


def test_a_certification_of_another_key_is_refused() -> None:
    certification = sign_attest(certify_message(tpm2b_public(rsa_key("EK"))))
    with pytest.raises(BindingError) as caught:
        verify_certification(certification, AK.rsa, KEY)
    assert caught.value.code == "evidence.quote"


def test_a_certification_signed_by_another_key_is_refused() -> None:
    certification = sign_attest(certify_message(wrapping_key_public()), "EK")
    with pytest.raises(BindingError) as caught:
        verify_certification(certification, AK.rsa, KEY)
    assert caught.value.code == "evidence.signature"


def test_a_quote_is_not_a_certification() -> None:
    with pytest.raises(MalformedEvidenceError):
        parse_certification(quote_message())


@pytest.mark.parametrize(
    "message",
    [
        certify_message(wrapping_key_public()),
        b"\0" + quote_message()[1:],  # something that the TPM did not make
        quote_message() + b"\0",
        quote_message()[:-1],
        quote_message(selection=b"\xff\0\0\0\0"),
    ],
)
def test_a_message_other_than_a_quote_is_malformed(message: bytes) -> None:
    with pytest.raises(MalformedEvidenceError) as caught:
        parse_quote(message)
    assert caught.value.code == "evidence.malformed"


def test_a_quote_over_two_banks_is_malformed() -> None:
    one = b"\x00\x00\x00\x01\x00\x0b"
    message = quote_message().replace(one, b"\x00\x00\x00\x02\x00\x0b")
    with pytest.raises(MalformedEvidenceError):
        parse_quote(message)


def test_the_policy_digest_is_the_formulas() -> None:
    """The same bytes as /work's measurement against a trial session had."""
    selection = bytes.fromhex("00000001 000b 03 ff0000")
    pcr_digest = hashlib.sha256(b"".join(PCRS)).digest()
    command = bytes(32) + (0x17F).to_bytes(4, "big")
    expected = hashlib.sha256(command + selection + pcr_digest).digest()
    assert compute_policy_pcr(PCRS) == expected


def test_an_aks_public_area_reads_as_such() -> None:
    assert AK.attributes == 0x00050472
    assert AK.policy == b""
    assert AK.rsa.exponent == 65537


def test_bytes_after_a_public_area_are_cut_off() -> None:
    data = tpm2b_public(rsa_key("AK"))
    assert parse_tpm2b_public(data + b"its name").raw == data


def test_a_storage_keys_public_area_parses() -> None:
    """It is the one kind with a symmetric algorithm."""
    data = tpm2b_public(rsa_key("AK"), scheme=b"\x00\x10")
    symmetric = data[2:].replace(
        b"\x00\x10\x00\x10", b"\x00\x06\x00\x80\x00\x43\x00\x10"
    )
    sized = len(symmetric).to_bytes(2, "big") + symmetric
    assert parse_tpm2b_public(sized).rsa == AK.rsa


def test_the_wrapping_keys_template_reads_back() -> None:
    template = encode_wrapping_key_template(b"\x11" * 32, b"\xff" * 256)
    assert template.startswith(bytes.fromhex("0136 0001 000b 00020432 0020"))
    found = parse_tpm2b_public(template)
    assert found.attributes == WRAPPING_KEY_ATTRIBUTES
    assert found.policy == b"\x11" * 32


def test_a_unique_field_of_another_size_is_our_mistake() -> None:
    with pytest.raises(ValueError, match="unique"):
        encode_wrapping_key_template(bytes(32), b"")


def test_an_elliptic_curve_key_is_unsupported() -> None:
    data = tpm2b_public(rsa_key("AK"))
    with pytest.raises(UnsupportedEvidenceError) as caught:
        parse_tpm2b_public(data[:2] + b"\x00\x23" + data[4:])
    assert caught.value.code == "evidence.unsupported"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        tpm2b_public(rsa_key("AK"))[:-1],
        tpm2b_public(rsa_key("AK")).replace(b"\x08\x00\0\0", b"\x10\x00\0\0", 1),
        tpm2b_public(rsa_key("AK"))[:-1] + b"\x02",
    ],
)
def test_a_broken_public_area_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedEvidenceError) as caught:
        parse_tpm2b_public(data)
    assert caught.value.code == "evidence.malformed"
