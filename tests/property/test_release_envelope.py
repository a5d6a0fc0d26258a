"""No bit of a release can change unnoticed, and every wrapped key unwraps."""

from __future__ import annotations

import contextlib
import os

import pytest
from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding
from hypothesis import given, settings
from hypothesis import strategies as st
from support.release import (
    VAULT,
    WRAPPING_KID,
    Release,
    flip_bit,
)
from support.release_pki import (
    NOW,
    pkcs8,
    root_certificate,
    rsa_key,
)

from skragent.errors import AgentError, MalformedReleaseError, UnwrapError
from skragent.jose import (
    decode_base64,
    decode_base64url,
    encode_base64url,
    parse_compact_jws,
)
from skragent.release.envelope import ReleaseRequest, WrappedKey, verify_release
from skragent.release.formats import render_key
from skragent.release.keywrap import split_wrapped_key, unwrap_key
from skragent.release.vault_failures import map_refusal

RELEASE = Release(rsa_key("released"))
TEXT = RELEASE.encode()
PKCS8 = pkcs8(rsa_key("released"))
TRANSFER_KEY = os.urandom(32)
WRAPPED = aes_key_wrap_with_padding(TRANSFER_KEY, PKCS8)


def verify(raw: str) -> WrappedKey:
    request = ReleaseRequest(
        vault=VAULT,
        name="mykey",
        version="",
        enc="RSA_AES_KEY_WRAP_256",
        nonce="n",
        wrapping_key_id=WRAPPING_KID,
    )
    return verify_release(raw, request, now=NOW, roots=[root_certificate()])


SIGNED = verify(TEXT)


@given(st.integers(0, len(TEXT) * 8 - 1))
def test_release_with_any_bit_flipped_is_refused(bit: int) -> None:
    with pytest.raises(MalformedReleaseError):
        verify(flip_bit(TEXT, bit))


@settings(max_examples=50)
@given(st.integers(0, len(TEXT) - 1))
def test_release_cut_anywhere_is_refused(size: int) -> None:
    with pytest.raises(MalformedReleaseError):
        verify(TEXT[:size])


@given(st.text())
def test_any_text_is_a_release_or_refused(text: str) -> None:
    with pytest.raises(MalformedReleaseError):
        verify(text)


@given(st.binary(min_size=1, max_size=4096), st.integers(0, 16))
def test_every_wrapped_key_unwraps_unchanged(key: bytes, zeros: int) -> None:
    # Also keys that end in zero bytes, which a C++ client once lost.
    key = (key + bytes(zeros))[-4096:]
    wrapped = aes_key_wrap_with_padding(TRANSFER_KEY, key)
    head, tail = split_wrapped_key(bytes(256) + wrapped, 256)
    assert head == bytes(256)
    assert unwrap_key(TRANSFER_KEY, tail) == key


@given(st.integers(0, len(WRAPPED) * 8 - 1))
def test_wrapped_key_with_any_bit_flipped_does_not_open(bit: int) -> None:
    data = bytearray(WRAPPED)
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(UnwrapError):
        unwrap_key(TRANSFER_KEY, bytes(data))


@settings(max_examples=50)
@given(st.integers(0, len(WRAPPED) - 1))
def test_wrapped_key_cut_anywhere_does_not_open(size: int) -> None:
    with pytest.raises(UnwrapError):
        unwrap_key(TRANSFER_KEY, WRAPPED[:size])


@settings(max_examples=50)
@given(st.binary(), st.integers(0, 600))
def test_splitting_any_bytes_is_total(data: bytes, modulus_bytes: int) -> None:
    try:
        head, tail = split_wrapped_key(data, modulus_bytes)
    except UnwrapError:
        return
    assert head + tail == data


@settings(max_examples=50)
@given(st.integers(0, len(PKCS8) * 8 - 1))
def test_private_key_with_any_bit_flipped_is_refused_or_the_same(bit: int) -> None:
    data = bytearray(PKCS8)
    data[bit // 8] ^= 1 << bit % 8
    try:
        rendered = render_key(SIGNED, data)
    except MalformedReleaseError:
        return
    assert rendered.forms["der"] == PKCS8


@given(st.binary())
def test_any_bytes_are_the_key_or_refused(data: bytes) -> None:
    with pytest.raises(MalformedReleaseError):
        render_key(SIGNED, data)


@given(st.integers(201, 999), st.binary(), st.text())
def test_any_refusal_of_a_vault_is_ours(status: int, body: bytes, text: str) -> None:
    headers = {"Retry-After": text, "x-ms-request-id": text}
    error = map_refusal(status, headers, body, what="the key")
    assert isinstance(error, AgentError)
    assert error.message.isprintable()


@given(st.text())
def test_text_reads_as_base64_in_one_spelling_or_not(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert encode_base64url(decode_base64url(text)) == text
    for parse in (decode_base64, lambda t: parse_compact_jws(t, max_chars=100)):
        try:
            parse(text)
        except ValueError:
            continue


@given(st.binary())
def test_base64url_comes_back_as_it_was(data: bytes) -> None:
    assert decode_base64url(encode_base64url(data)) == data
