"""The emulated Entra ID answers every input, and refuses a token to unknown clients."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.azure import ask, make_azure
from support.azure_vm import b64u
from support.entra import Client

from skragent.emulator.imds.identities import TENANT_ID

TEXTS = st.text(max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
NAMES = st.sampled_from(["alg", "kid", "x5t", "x5t#S256", "iss", "sub", "aud", "exp"])
PARTS = st.dictionaries(NAMES | st.just("nbf"), VALUES)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(make_azure(tmp_path_factory.mktemp("azure")))


@pytest.fixture(scope="module")
def token(client: Client) -> str:
    return client.platform()


@given(form=st.binary(max_size=200))
def test_any_form_is_refused_in_its_shape(client: Client, form: bytes) -> None:
    path = f"/{TENANT_ID}/oauth2/v2.0/token"
    answer = ask(client.azure.entra_id, "POST", path, form)
    assert answer.status == 400
    assert json.loads(answer.body)["error_codes"]


@given(path=st.text(max_size=60))
def test_any_path_is_answered(client: Client, path: str) -> None:
    answer = ask(client.azure.entra_id, "GET", f"/{path}")
    assert answer.status in (200, 400, 404)


@given(header=PARTS, claims=PARTS, signature=st.binary(max_size=300))
def test_any_assertion_without_a_key_is_refused(
    client: Client,
    header: dict[str, object],
    claims: dict[str, object],
    signature: bytes,
) -> None:
    good = {"iss": client.client_id, "sub": client.client_id}
    parts = [json.dumps(part).encode() for part in (header, good | claims)]
    text = ".".join(b64u(part) for part in (*parts, signature))
    answer = client.ask_asserting(text)
    assert answer.status in (400, 401)
    assert json.loads(answer.body)["error_codes"]


@given(place=st.integers(min_value=0), bit=st.integers(0, 6))
def test_no_bit_of_an_assertion_can_be_changed(
    client: Client, token: str, place: int, bit: int
) -> None:
    text = bytearray(token, "ascii")
    # Its last digit has bits that base64 does not use.
    text[place % (len(text) - 1)] ^= 1 << bit
    answer = client.ask_asserting(text.decode("ascii"))
    assert answer.status in (400, 401)
