"""Client assertions, the application's own and its platform's: what Entra ID takes."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from support.azure import ENTRA, make_azure
from support.azure_vm import NOW, Json, b64u, rsa_key
from support.entra import ENDPOINT, JWT_BEARER, Client

from skragent.emulator.imds.identities import TENANT_ID
from skragent.emulator.service import Response

Ask = Callable[..., Response]
NOW_SECONDS = NOW.timestamp()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(make_azure(tmp_path_factory.mktemp("azure")))


def _numbers(answer: Response) -> tuple[int, list[int]]:
    return answer.status, json.loads(answer.body).get("error_codes", [])


@pytest.mark.parametrize("algorithm", ["RS256", "PS256"])
def test_certificates_key_signs_by_either_algorithm(
    client: Client, algorithm: str
) -> None:
    assertion = client.own({"alg": algorithm})
    assert client.ask_asserting(assertion).status == 200


def test_certificate_may_be_named_by_sha_256(client: Client) -> None:
    named = {"x5t": None, "x5t#S256": client.thumbprint(SHA256())}
    assert client.ask_asserting(client.own(named)).status == 200


def test_fingerprint_may_be_padded_as_msals_is(client: Client) -> None:
    named = {"x5t": client.thumbprint(SHA1()) + "="}
    assert client.ask_asserting(client.own(named)).status == 200


@pytest.mark.parametrize(
    "audience", [ENDPOINT, f"{ENTRA}/{TENANT_ID}/v2.0"], ids=["endpoint", "issuer"]
)
def test_audience_is_the_endpoint_or_the_issuer(client: Client, audience: str) -> None:
    assert client.ask_asserting(client.own(aud=audience)).status == 200


def test_assertion_may_be_used_again(client: Client) -> None:
    assertion = client.own()
    assert client.ask_asserting(assertion).status == 200
    assert client.ask_asserting(assertion).status == 200


@pytest.mark.parametrize(
    ("claims", "status", "number"),
    [
        ({"aud": "https://login.test/token"}, 401, 700023),
        ({"aud": None}, 400, 50027),
        ({"iss": "11111111-2222-3333-4444-555555555555"}, 401, 700021),
        ({"sub": "11111111-2222-3333-4444-555555555555"}, 401, 700021),
        ({"iss": None}, 400, 50027),
        ({"iss": 7}, 400, 50027),
        ({"sub": None}, 400, 50027),
        ({"exp": NOW_SECONDS - 301}, 401, 700024),
        ({"nbf": NOW_SECONDS + 301}, 401, 700024),
        ({"exp": None}, 400, 50027),
        ({"exp": "tomorrow"}, 400, 50027),
        ({"jti": None}, 400, 50027),
    ],
)
def test_own_assertion_with_one_wrong_claim_is_refused(
    client: Client, claims: dict[str, Json], status: int, number: int
) -> None:
    answer = client.ask_asserting(client.own(**claims))
    assert _numbers(answer) == (status, [number])


@pytest.mark.parametrize(
    "claims", [{"exp": NOW_SECONDS - 299}, {"nbf": NOW_SECONDS + 299}]
)
def test_clocks_may_differ_by_five_minutes(
    client: Client, claims: dict[str, Json]
) -> None:
    assert client.ask_asserting(client.own(**claims)).status == 200


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"x5t": b64u(bytes(20))}, "The key was not found."),
        ({"x5t": None}, "The key was not found."),
        ({"x5t#S256": b64u(bytes(32))}, "The key was not found."),
        ({"alg": "none"}, "signature value did not match"),
        ({"alg": "HS256"}, "signature value did not match"),
    ],
)
def test_own_assertion_with_a_wrong_header_is_refused(
    client: Client, header: dict[str, Json], reason: str
) -> None:
    answer = client.ask_asserting(client.own(header))
    assert _numbers(answer) == (401, [700027])
    assert reason in json.loads(answer.body)["error_description"]


def test_own_assertion_by_another_key_is_refused(client: Client) -> None:
    answer = client.ask_asserting(client.own(key=rsa_key("other")))
    assert _numbers(answer) == (401, [700027])


@pytest.mark.parametrize("text", ["x", "a.b", "a.b.c", "e30.W10.", "W10.e30.", "..."])
def test_other_text_than_a_jwt_is_malformed(client: Client, text: str) -> None:
    assert _numbers(client.ask_asserting(text)) == (400, [50027])


def test_thumbprint_outside_base64_is_malformed(client: Client) -> None:
    answer = client.ask_asserting(client.own({"x5t": 7}))
    assert _numbers(answer) == (400, [50027])


def test_assertion_without_its_type_is_refused(client: Client) -> None:
    answer = client.ask_asserting(client.own(), client_assertion_type=None)
    assert _numbers(answer) == (400, [900144])
    assert JWT_BEARER not in json.loads(answer.body)["error_description"]


def test_platforms_token_speaks_for_the_application(client: Client) -> None:
    assert client.ask_asserting(client.platform()).status == 200


def test_token_in_the_file_is_such_a_token(client: Client) -> None:
    token = client.azure.application_files.token.read_text()
    assert client.ask_asserting(token).status == 200


@pytest.mark.parametrize(
    ("claims", "status", "number"),
    [
        ({"iss": "https://other.example/"}, 401, 700211),
        ({"iss": "https://PLATFORM.skragent-emulator.example/"}, 401, 700211),
        ({"sub": "system:serviceaccount:default:other"}, 401, 700213),
        ({"aud": ["https://vault.azure.net"]}, 401, 7002121),
        ({"aud": None}, 401, 7002121),
        ({"sub": None}, 400, 50027),
        ({"exp": NOW_SECONDS - 301}, 401, 700024),
        ({"nbf": NOW_SECONDS + 301}, 401, 700024),
    ],
)
def test_platforms_token_with_one_wrong_claim_is_refused(
    client: Client, claims: dict[str, Json], status: int, number: int
) -> None:
    answer = client.ask_asserting(client.platform(**claims))
    assert _numbers(answer) == (status, [number])


def test_platforms_token_by_a_key_that_it_does_not_publish_is_refused(
    client: Client,
) -> None:
    answer = client.ask_asserting(client.platform({"kid": "other"}))
    assert _numbers(answer) == (401, [7000272])


def test_platforms_token_by_another_key_is_refused(client: Client) -> None:
    answer = client.ask_asserting(client.platform(key=rsa_key("other")))
    assert _numbers(answer) == (401, [700027])


def test_platforms_token_must_use_rs256(client: Client) -> None:
    answer = client.ask_asserting(client.platform({"alg": "PS256"}))
    assert _numbers(answer) == (401, [700027])
