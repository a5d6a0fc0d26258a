"""Accept decides the form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from skragent.errors import RequestError
from skragent.serving.negotiation import choose_form

if TYPE_CHECKING:
    from skragent.job import Form

RSA: tuple[Form, ...] = ("der", "jwk", "pem")
OCT: tuple[Form, ...] = ("jwk", "raw")


@pytest.mark.parametrize(
    ("accept", "form", "media_type"),
    [
        ("", "jwk", "application/jwk+json"),
        ("*/*", "jwk", "application/jwk+json"),
        ("application/*", "jwk", "application/jwk+json"),
        ("application/json", "jwk", "application/json"),
        ("application/jwk+json", "jwk", "application/jwk+json"),
        ("application/x-pem-file", "pem", "application/x-pem-file"),
        ("Application/PKCS8", "der", "application/pkcs8"),
        ("text/html, application/pkcs8;q=0.5, */*;q=0.1", "der", "application/pkcs8"),
        ("application/pkcs8;q=0.1, */*", "jwk", "application/jwk+json"),
        ("application/octet-stream, application/pkcs8;q=0", "", ""),
        ("text/html", "", ""),
        ("*/*;q=0", "", ""),
        ("application/pkcs8;q=nan", "", ""),
        ("application/pkcs8;q=2", "", ""),
        (",;,", "", ""),
        ("*/*, application/jwk+json;q=0", "pem", "application/x-pem-file"),
        ("application/*;q=0, */*", "", ""),
        ("application/*;q=0, application/pkcs8;q=0.1, */*", "der", "application/pkcs8"),
        ("application/json, application/jwk+json", "jwk", "application/json"),
        ("application/pkcs8, application/x-pem-file", "der", "application/pkcs8"),
        ("a/b," * 31 + "application/pkcs8", "der", "application/pkcs8"),
    ],
)
def test_the_preferred_available_form_is_chosen(
    accept: str, form: str, media_type: str
) -> None:
    if form:
        assert choose_form(accept, RSA) == (form, media_type)
        return
    with pytest.raises(RequestError) as caught:
        choose_form(accept, RSA)
    assert (caught.value.code, caught.value.status) == ("serve.not_acceptable", 406)


def test_an_oct_key_has_raw_bytes() -> None:
    assert choose_form("application/octet-stream", OCT).form == "raw"


def test_a_key_without_a_jwk_is_served_in_its_first_form() -> None:
    assert choose_form("*/*", ("der", "pem")).form == "pem"


def test_a_too_long_accept_is_rejected() -> None:
    with pytest.raises(RequestError) as caught:
        choose_form("a/b," * 32 + "application/pkcs8", RSA)
    assert (caught.value.code, caught.value.status) == ("serve.bad_request", 400)
