"""Writes into the AK certificate's index, and lost certificates."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from support.evidence_amd import NOW, mint_certificate, rsa_key

from skragent.evidence.ak_certificate import decode_pem, encode_pem, is_for_key
from skragent.evidence.ak_index import (
    AkIndex,
    Piece,
    find_lost,
    is_whole,
    needs_copy,
    plan_write,
)
from skragent.evidence.tpm_public import RsaPublic

OWNERWRITE, AUTHWRITE, POLICYWRITE = 1 << 1, 1 << 2, 1 << 3
COUNTER, WRITELOCKED, WRITEALL = 1 << 4, 1 << 11, 1 << 12
PLATFORMCREATE = 1 << 30
CA = "Global Virtual TPM CA - 01"


def mint(key: str = "AK", *, days: float = 100, issuer: str = CA) -> bytes:
    certificate: x509.Certificate = mint_certificate(
        "AK",
        issuer,
        key=rsa_key(key),
        valid_from=NOW - timedelta(days=1),
        valid_until=NOW + timedelta(days=days),
    )
    return certificate.public_bytes(Encoding.DER)


def public(key: str = "AK") -> RsaPublic:
    numbers = rsa_key(key).public_key().public_numbers()
    return RsaPublic(numbers.n, numbers.e)


OLD, NEW = mint(days=30), mint(days=365)
COPIES = (NEW, OLD)
AK = public()


def holding(
    content: bytes | None, *, size: int = 4096, attributes: int = OWNERWRITE
) -> AkIndex:
    padded = None if content is None else content.ljust(size, b"\0")
    return AkIndex(attributes, size, padded)


def written(index: AkIndex, pieces: tuple[Piece, ...]) -> bytes:
    content = bytearray(index.content or b"\xff" * index.size)
    for offset, data in pieces:
        assert 0 < len(data) <= 1024
        content[offset : offset + len(data)] = data
    return bytes(content)


@given(
    present=st.one_of(st.none(), st.binary(max_size=3000)),
    der=st.binary(min_size=1, max_size=3000),
    size=st.integers(3000, 4096),
)
def test_the_pieces_give_the_certificate_and_zeros(
    present: bytes | None, der: bytes, size: int
) -> None:
    index = holding(present, size=size)
    pieces = plan_write(index, der)
    assert pieces is not None
    assert written(index, pieces) == der.ljust(size, b"\0")


def test_unchanged_pieces_are_not_written() -> None:
    present, new = bytes(1024) + b"a" * 100, bytes(1024) + b"b" * 100
    assert plan_write(holding(present), present) == ()
    pieces = plan_write(holding(present), new)
    assert pieces is not None
    assert [offset for offset, _ in pieces] == [1024]


@pytest.mark.parametrize(
    ("attributes", "is_in_place"),
    [
        (OWNERWRITE, True),
        (AUTHWRITE, True),
        (OWNERWRITE | AUTHWRITE, True),
        (POLICYWRITE, False),
        (0, False),
        (OWNERWRITE | WRITELOCKED, False),
        (OWNERWRITE | WRITEALL, False),
        (OWNERWRITE | COUNTER, False),
    ],
)
def test_the_attributes_decide_whether_it_is_written_in_place(
    attributes: int, *, is_in_place: bool
) -> None:
    pieces = plan_write(holding(OLD, attributes=attributes), NEW)
    assert (pieces is not None) == is_in_place


def test_an_index_that_is_missing_or_too_small_is_redefined() -> None:
    assert plan_write(None, NEW) is None
    assert plan_write(holding(OLD, size=len(NEW) - 1), NEW) is None
    assert plan_write(holding(OLD, size=len(NEW)), NEW) is not None


def test_only_one_piece_of_the_owners_index_needs_no_copy() -> None:
    small, large = b"a" * 1024, b"a" * 1025
    assert not needs_copy(holding(b"b", size=2048), small)
    assert needs_copy(holding(b"b", size=2048), large)
    assert needs_copy(holding(b"b", size=2048, attributes=AUTHWRITE), small)
    assert needs_copy(holding(b"b", size=1000), small)
    assert needs_copy(None, small)
    assert not needs_copy(holding(large, size=2048), large)  # nothing to write


@pytest.mark.parametrize(
    "index",
    [
        None,
        holding(None),
        holding(b""),
        holding(b"\xff" * 4096),
        holding(NEW[:600] + OLD[600:]),
        holding(NEW[:600]),
        AkIndex(OWNERWRITE, 4096, NEW.ljust(4096, b"\xff")),
        holding(mint("another", days=400)),
        holding(mint(days=40)),
        holding(mint(days=400, issuer="MICROSOFT AZURE TRUSTED VM RSA CA 2020")),
    ],
    ids=[
        *("no index", "never written", "zeros", "ones", "a mixture", "a part"),
        *("no zeros after it", "another key's", "one that ends before the new one"),
        "the placeholder",
    ],
)
def test_an_incomplete_certificate_is_lost(index: AkIndex | None) -> None:
    assert find_lost(index, COPIES, AK) == (NEW, OLD)


def test_a_mixture_that_parses_and_has_the_right_key_is_lost() -> None:
    assert len(OLD) == len(NEW)
    mixture = NEW[:-100] + OLD[-100:]
    assert is_whole(holding(mixture), AK)
    assert find_lost(holding(mixture), COPIES, AK) == (NEW, OLD)


@pytest.mark.parametrize(
    "index",
    [
        holding(OLD),
        holding(NEW),
        holding(NEW, size=len(NEW)),
        holding(mint(days=366)),
        holding(None, attributes=PLATFORMCREATE),
        holding(mint("another"), attributes=PLATFORMCREATE),
    ],
    ids=[
        *("the old one", "the new one", "without zeros", "one that ends later"),
        *("the paravisor's, not written", "the paravisor's"),
    ],
)
def test_an_intact_certificate_or_one_of_the_paravisor_is_not_lost(
    index: AkIndex,
) -> None:
    assert find_lost(index, COPIES, AK) == ()


def test_copies_for_another_key_are_not_restored() -> None:
    assert find_lost(None, (mint("another"),), AK) == ()
    assert find_lost(None, (mint("another"), OLD), AK) == (OLD,)
    assert find_lost(None, (b"no certificate",), AK) == ()


def test_the_best_copy_is_the_copy_that_ends_last() -> None:
    assert find_lost(None, (OLD, NEW), AK) == (NEW, OLD)


def test_a_certificate_for_a_key_is_known_by_the_key() -> None:
    assert is_for_key(OLD + bytes(100), AK)
    assert not is_for_key(OLD, public("another"))
    assert not is_for_key(OLD, RsaPublic(AK.modulus, 3))
    assert not is_for_key(b"", AK)
    elliptic = mint_certificate(
        "AK",
        CA,
        key=ec.generate_private_key(ec.SECP256R1()),
        valid_from=NOW,
        valid_until=NOW,
    )
    assert not is_for_key(elliptic.public_bytes(Encoding.DER), AK)


def test_certificates_come_back_from_text_byte_for_byte() -> None:
    assert decode_pem(encode_pem(NEW) + encode_pem(OLD)) == (NEW, OLD)
    assert decode_pem(b"") == decode_pem(b"-----BEGIN CERTIFICATE-----") == ()
