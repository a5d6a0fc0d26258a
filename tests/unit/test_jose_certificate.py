"""Certificates of an `x5c` chain: a certificate, or ValueError for any fault."""

from __future__ import annotations

import warnings

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from support.release_pki import root_certificate

from skragent.jose import load_certificate

DER = root_certificate().public_bytes(Encoding.DER)
VERSION_3 = b"\xa0\x03\x02\x01\x02"  # RFC 5280 §4.1.2.1


def test_a_certificate_is_read() -> None:
    assert load_certificate(DER) == root_certificate()


@pytest.mark.parametrize(
    "der", [b"", b"x", DER[:-1], DER.replace(VERSION_3, VERSION_3[:-1] + b"\x22", 1)]
)
def test_bytes_that_are_not_a_certificate_raise_value_error(der: bytes) -> None:
    assert der != DER
    with pytest.raises(ValueError):  # noqa: PT011 - for any fault
        load_certificate(der)


def test_a_serial_number_that_is_not_positive_is_a_value_error() -> None:
    """RFC 5280 §4.1.2.2; the library only warns of it."""
    number = root_certificate().serial_number
    size = (number.bit_length() + 8) // 8
    positive = bytes([2, size]) + number.to_bytes(size, "big")
    assert DER.count(positive) == 1
    negative = bytes([2, size]) + b"\xff" + positive[3:]
    with pytest.raises(ValueError):  # noqa: PT011 - for any fault
        load_certificate(DER.replace(positive, negative))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as the product runs
        with pytest.raises(ValueError, match="serial"):
            load_certificate(DER.replace(positive, negative))
