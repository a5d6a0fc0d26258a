"""A peer's address is read totally, and in one way only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skragent.serving.credential_protocol import (
    CredentialName,
    choose_credential_form,
    parse_address,
    parse_credential,
)

UNITS = st.from_regex(
    r"[A-Za-z0-9:_.-]{1,40}(@[a-z0-9]{1,9})?\.service", fullmatch=True
)
NAMES = st.from_regex(r"[A-Za-z0-9._-]{1,60}", fullmatch=True)


@given(st.integers(min_value=0, max_value=2**64 - 1), UNITS, NAMES)
def test_addresses_of_systemd_are_parsed(number: int, unit: str, name: str) -> None:
    address = f"\0{number:x}/unit/{unit}/{name}".encode()
    assert parse_address(address) == (unit, name)


@given(st.binary(max_size=108) | st.text(max_size=50) | st.none())
def test_the_address_parser_is_total(address: bytes | str | None) -> None:
    found = parse_address(address)
    assert found is None or (isinstance(address, bytes) and address[:1] == b"\0")


@given(UNITS, NAMES, st.data())
def test_a_damaged_address_names_no_other_unit(
    unit: str, name: str, data: st.DataObject
) -> None:
    address = bytearray(f"\0ab12/unit/{unit}/{name}".encode())
    bit = data.draw(st.integers(min_value=0, max_value=len(address) * 8 - 1))
    address[bit // 8] ^= 1 << bit % 8
    found = parse_address(bytes(address))
    assert found is None or "/".join(found).encode() in address


@pytest.mark.parametrize("name", ["db\nFAKE", "db\x1b[31m", "db:x", "db\x7f", ""])
def test_names_that_are_not_credentials_are_rejected(name: str) -> None:
    assert parse_address(f"\0ab/unit/db.service/{name}".encode()) is None


@given(st.text(max_size=80))
def test_the_credential_parser_is_total(name: str) -> None:
    found = parse_credential(name)
    assert found is None or name.startswith(found.alias)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("db", CredentialName("db", None)),
        ("db.pem", CredentialName("db", "pem")),
        ("db.raw", None),
        ("db.PEM", None),
        ("db.pem\n", None),
        ("d" * 65, None),
        ("", None),
    ],
)
def test_a_credential_is_a_key_with_an_optional_form(
    name: str, expected: CredentialName | None
) -> None:
    assert parse_credential(name) == expected


def test_a_requested_form_is_returned_or_none() -> None:
    assert choose_credential_form("jwk", ("jwk", "pem")) == "jwk"
    assert choose_credential_form("der", ("jwk", "raw")) is None
    assert choose_credential_form(None, ("jwk", "pem", "der")) == "pem"
    assert choose_credential_form(None, ("jwk", "raw")) == "raw"
    assert choose_credential_form(None, ("raw", "pem")) == "pem"


@pytest.mark.parametrize(
    "unit", ["web", "web@.service", "web.timers", "we b.service", "a.service\nb", ".."]
)
def test_an_address_with_an_invalid_unit_is_rejected(unit: str) -> None:
    assert parse_address(f"\0ab/unit/{unit}/db".encode()) is None


@pytest.mark.parametrize(("length", "is_read"), [(255, True), (256, False)])
def test_the_name_of_a_credential_has_a_limit(length: int, *, is_read: bool) -> None:
    address = b"\0ab/unit/web.service/" + b"d" * length
    assert (parse_address(address) is not None) is is_read
