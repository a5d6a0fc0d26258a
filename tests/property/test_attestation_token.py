"""No bit of a token, and no byte of a response, can change unnoticed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.release import (
    ISSUER,
    NONCE,
    encode_answer,
    flip_bit,
    key_set,
    make_token,
    seal_token,
    wrapping_key,
)
from support.release_pki import NOW

from skragent.attestation.guest import (
    open_sealed_token,
    parse_guest_response,
    parse_os_release,
)
from skragent.attestation.maa import parse_reason
from skragent.attestation.token import parse_signing_keys, verify_token
from skragent.errors import AttestationError, InvalidTokenError
from skragent.evidence.tpm_public import RsaPublic

TOKEN = make_token()
ANSWER = encode_answer(seal_token(TOKEN))
KEYS = parse_signing_keys(key_set())
NUMBERS = wrapping_key().public_key().public_numbers()


def verify(raw: str) -> None:
    verify_token(
        raw,
        signing_keys=KEYS,
        issuer=ISSUER,
        now=NOW,
        nonce=NONCE,
        wrapping_key=RsaPublic(NUMBERS.n, NUMBERS.e),
    )


def test_the_token_itself_is_accepted() -> None:
    verify(TOKEN)


@given(st.integers(0, len(TOKEN) * 8 - 1))
def test_token_with_any_bit_flipped_is_refused(bit: int) -> None:
    with pytest.raises(InvalidTokenError):
        verify(flip_bit(TOKEN, bit))


@pytest.mark.parametrize("bit", range(8))
@pytest.mark.parametrize("end", [0, 1, 2])
def test_last_character_of_each_part_counts(end: int, bit: int) -> None:
    # Where base64 has bits to spare, kinder decoders see no difference.
    ends = [len(".".join(TOKEN.split(".")[: n + 1])) - 1 for n in range(3)]
    with pytest.raises(InvalidTokenError):
        verify(flip_bit(TOKEN, ends[end] * 8 + bit))


@settings(max_examples=50)
@given(st.integers(0, len(TOKEN) - 1))
def test_token_cut_anywhere_is_refused(size: int) -> None:
    with pytest.raises(InvalidTokenError):
        verify(TOKEN[:size])


@given(st.text())
def test_any_text_is_a_token_or_refused(text: str) -> None:
    with pytest.raises(AttestationError):
        verify(text)


@given(st.integers(0, len(ANSWER) * 8 - 1))
def test_answer_with_any_bit_flipped_gives_the_token_or_none(bit: int) -> None:
    data = bytearray(ANSWER)
    data[bit // 8] ^= 1 << bit % 8
    try:
        opened = open_sealed_token(parse_guest_response(bytes(data)), bytes(range(32)))
    except InvalidTokenError:
        return
    assert opened == TOKEN  # the flip was in an unused member, such as BlockMode


@given(st.binary())
def test_every_parser_of_answers_is_total(data: bytes) -> None:
    for parse in (parse_guest_response, parse_signing_keys):
        with pytest.raises(InvalidTokenError):
            parse(data)
    assert parse_reason(data).isprintable()


@given(st.text())
def test_any_os_release_is_read(text: str) -> None:
    info = parse_os_release(text)
    assert info.distribution
    assert info.version_major >= 0
