"""Unwrapping a key: every failure has the same message."""

from __future__ import annotations

import pytest
from support.release import (
    open_transfer_key,
    wrap,
    wrapping_key,
)

from skragent.errors import UnwrapError
from skragent.release.keywrap import OAEP_SCHEMES, split_wrapped_key, unwrap_key

MODULUS_BYTES = 256


def test_wrapped_key_opens() -> None:
    head, tail = split_wrapped_key(wrap(b"the key"), MODULUS_BYTES)
    assert unwrap_key(open_transfer_key(head), tail) == b"the key"


@pytest.mark.parametrize("enc", sorted(OAEP_SCHEMES))
def test_every_enc_opens(enc: str) -> None:
    head, tail = split_wrapped_key(wrap(b"the key", enc), MODULUS_BYTES)
    assert unwrap_key(open_transfer_key(head, enc), tail) == b"the key"


def test_each_enc_has_its_own_hash() -> None:
    assert OAEP_SCHEMES == {
        "CKM_RSA_AES_KEY_WRAP": "oaep-sha1",
        "RSA_AES_KEY_WRAP_256": "oaep-sha256",
        "RSA_AES_KEY_WRAP_384": "oaep-sha384",
    }


def test_first_part_is_as_long_as_the_modulus() -> None:
    head, tail = split_wrapped_key(bytes(512) + b"1" * 16, 512)
    assert (head, tail) == (bytes(512), b"1" * 16)


@pytest.mark.parametrize("size", [0, 1, 256, 264, 271, 273, 279])
def test_impossible_length_is_refused(size: int) -> None:
    with pytest.raises(UnwrapError):
        split_wrapped_key(bytes(size), MODULUS_BYTES)


@pytest.mark.parametrize("size", [0, 8, 15, 17, 23])
def test_impossible_length_of_the_encrypted_key_is_refused(size: int) -> None:
    with pytest.raises(UnwrapError):
        unwrap_key(bytes(32), bytes(size))


@pytest.mark.parametrize("size", [0, 16, 24, 31, 33])
def test_transfer_key_other_than_aes_256_is_refused(size: int) -> None:
    with pytest.raises(UnwrapError):
        unwrap_key(bytes(size), bytes(24))


def test_every_failure_says_the_same() -> None:
    head, tail = split_wrapped_key(wrap(b"the key"), MODULUS_BYTES)
    key = open_transfer_key(head)
    messages = set()
    for transfer_key, encrypted in (
        (bytes(32), tail),
        (key, tail[:-8] + bytes(8)),
        (key[:16], tail),
        (key, b""),
    ):
        with pytest.raises(UnwrapError) as caught:
            unwrap_key(transfer_key, encrypted)
        assert caught.value.code == "unwrap"
        assert caught.value.__cause__ is None
        messages.add(str(caught.value))
    assert len(messages) == 1
    assert wrapping_key().key_size == MODULUS_BYTES * 8
