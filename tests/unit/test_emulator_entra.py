"""The emulated Entra ID: documents, tokens, and the format of refusals."""

from __future__ import annotations

import json
import re
import stat
import uuid
from pathlib import Path

import pytest
from cryptography import x509
from support.azure import ENTRA, ask, jws_parts, make_azure
from support.azure_vm import Json
from support.entra import SCOPE, Client

from skragent.emulator.azure import Azure
from skragent.emulator.imds.identities import TENANT_ID
from skragent.emulator.service import Response
from skragent.errors import AgentError

DISCOVERY = "/common/discovery/instance?api-version={}&authorization_endpoint={}"
KNOWN = "https://login.microsoftonline.com/common/oauth2/authorize"


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Azure:
    return make_azure(tmp_path_factory.mktemp("azure"))


@pytest.fixture
def client(azure: Azure) -> Client:
    return Client(azure)


def _get(azure: Azure, target: str) -> tuple[int, Json]:
    answer = ask(azure.entra_id, "GET", target)
    return answer.status, json.loads(answer.body)


def _json(answer: Response) -> Json:
    return json.loads(answer.body)


def test_response_is_that_of_oauth_with_numbers_as_numbers(client: Client) -> None:
    answer = client.ask()
    assert answer.headers["Cache-Control"] == "no-store, no-cache"
    body = _json(answer)
    assert body.pop("access_token")
    assert body == {"token_type": "Bearer", "expires_in": 3599, "ext_expires_in": 3599}


def test_token_is_the_applications_and_not_of_a_managed_identity(
    azure: Azure, client: Client
) -> None:
    _, claims = jws_parts(_json(client.ask())["access_token"])
    assert claims["aud"] == "https://vault.azure.net"
    assert claims["appid"] == azure.application.client_id
    assert claims["oid"] == azure.application.object_id
    assert claims["exp"] - claims["iat"] == 3599
    assert not {name for name in claims if name.startswith("xms_")}


@pytest.mark.parametrize(("proof", "said"), [("secret", "1"), ("assertion", "2")])
def test_token_says_how_the_application_proved_itself(
    client: Client, proof: str, said: str
) -> None:
    by_secret = proof == "secret"
    answer = client.ask() if by_secret else client.ask_asserting(client.own())
    _, claims = jws_parts(_json(answer)["access_token"])
    assert claims["appidacr"] == said


@pytest.mark.parametrize(
    "scope",
    [f" {SCOPE}", f"{SCOPE} ", f"openid {SCOPE}", f"{SCOPE} profile offline_access"],
)
def test_scope_is_a_list_separated_by_spaces(client: Client, scope: str) -> None:
    _, claims = jws_parts(_json(client.ask(scope=scope))["access_token"])
    assert claims["aud"] == "https://vault.azure.net"


@pytest.mark.parametrize("name", ["skragent-demo", "skragent-hsm"])
def test_vaults_verify_its_tokens_like_a_managed_identitys(
    azure: Azure, client: Client, name: str
) -> None:
    vault = azure.vaults[name]
    token = _json(client.ask(scope=f"{vault.resource}/.default"))["access_token"]
    headers = {"authorization": f"Bearer {token}"}
    answer = ask(vault, "GET", "/keys?api-version=7.4", headers=headers)
    assert answer.status == 200


def test_metadata_leads_to_the_endpoint_and_the_keys(azure: Azure) -> None:
    status, found = _get(azure, f"/{TENANT_ID}/v2.0/.well-known/openid-configuration")
    assert status == 200
    assert found["issuer"] == f"{ENTRA}/{TENANT_ID}/v2.0"
    assert found["token_endpoint"] == f"{ENTRA}/{TENANT_ID}/oauth2/v2.0/token"
    keys = _get(azure, found["jwks_uri"].removeprefix(ENTRA))[1]["keys"]
    assert [key["kid"] for key in keys] == [_header_kid(azure)]


def _header_kid(azure: Azure) -> str:
    token = _json(Client(azure).ask())["access_token"]
    return str(jws_parts(token)[0]["kid"])


def test_tenant_is_known_by_its_domain_as_well(azure: Azure, client: Client) -> None:
    domain = "skragent.onmicrosoft.com"
    _, found = _get(azure, f"/{domain}/v2.0/.well-known/openid-configuration")
    assert TENANT_ID in found["token_endpoint"]
    assert client.ask(tenant=domain).status == 200


def test_metadata_of_another_tenant_is_refused(azure: Azure) -> None:
    status, body = _get(azure, "/other.example/v2.0/.well-known/openid-configuration")
    assert (status, body["error"]) == (400, "invalid_tenant")
    assert body["error_codes"] == [90002]


def test_microsofts_own_host_is_told_with_its_aliases(azure: Azure) -> None:
    status, found = _get(azure, DISCOVERY.format("1.1", KNOWN))
    assert status == 200
    (cloud,) = found["metadata"]
    assert "login.microsoftonline.com" in cloud["aliases"]


def test_older_discovery_tells_where_the_metadata_is(azure: Azure) -> None:
    endpoint = f"https://login.windows.net/{TENANT_ID}/oauth2/v2.0/authorize"
    assert _get(azure, DISCOVERY.format("1.0", endpoint)) == (
        200,
        {
            "tenant_discovery_endpoint": "https://login.microsoftonline.com/"
            f"{TENANT_ID}/v2.0/.well-known/openid-configuration"
        },
    )


@pytest.mark.parametrize(
    "endpoint", ["https://127.0.0.1:1/t/oauth2", "http:///", "https://[", ""]
)
def test_foreign_host_is_not_an_instance(azure: Azure, endpoint: str) -> None:
    status, body = _get(azure, DISCOVERY.format("1.0", endpoint))
    assert (status, body["error"]) == (400, "invalid_instance")


def test_other_paths_are_not_found(azure: Azure) -> None:
    for path in ("/", "/common", f"/{TENANT_ID}/oauth2/token", "//oauth2/v2.0/token"):
        assert ask(azure.entra_id, "GET", path).status == 404


def test_refusal_has_entras_shape(client: Client) -> None:
    body = _json(client.ask(client_secret="wrong"))
    assert body["error"] == "invalid_client"
    assert body["error_codes"] == [7000215]
    assert body["error_uri"].endswith("/error?code=7000215")
    text = (
        r"AADSTS7000215: Invalid client secret provided\. .*"
        rf" Trace ID: {body['trace_id']} Correlation ID: {body['correlation_id']}"
        rf" Timestamp: {body['timestamp']}"
    )
    assert re.fullmatch(text, body["error_description"])
    assert body["timestamp"] == "2026-01-01 00:00:00Z"
    uuid.UUID(body["trace_id"])
    uuid.UUID(body["correlation_id"])


def test_refusal_has_the_id_that_the_client_gave(azure: Azure) -> None:
    path, headers = f"/{TENANT_ID}/oauth2/v2.0/token", {"client-request-id": "an-id"}
    answer = ask(azure.entra_id, "POST", path, b"", headers)
    assert _json(answer)["correlation_id"] == "an-id"


def test_refusal_never_has_the_secret(client: Client) -> None:
    assert b"a-secret-that-is-wrong" not in (
        client.ask(client_secret="a-secret-that-is-wrong").body
    )


@pytest.mark.parametrize(
    ("form", "status", "error", "number"),
    [
        ({"client_secret": "wrong"}, 401, "invalid_client", 7000215),
        ({"client_secret": "\N{SNOWMAN}"}, 401, "invalid_client", 7000215),
        ({"client_secret": None}, 401, "invalid_client", 7000216),
        ({"client_secret": ""}, 401, "invalid_client", 7000216),
        ({"client_id": str(uuid.UUID(int=1))}, 400, "unauthorized_client", 700016),
        ({"client_id": None}, 400, "invalid_request", 900144),
        ({"grant_type": None}, 400, "invalid_request", 900144),
        ({"grant_type": "password"}, 400, "unsupported_grant_type", 70003),
        ({"scope": None}, 400, "invalid_request", 900144),
        ({"scope": "https://vault.azure.net"}, 400, "invalid_scope", 1002012),
        ({"scope": f"{SCOPE} {SCOPE}"}, 400, "invalid_scope", 70011),
        ({"scope": "openid profile"}, 400, "invalid_scope", 70011),
        ({"scope": " "}, 400, "invalid_scope", 70011),
        ({"scope": "https://other.test/.default"}, 400, "invalid_resource", 500011),
        ({"tenant": str(uuid.UUID(int=1))}, 400, "invalid_request", 90002),
        ({"tenant": "common"}, 400, "invalid_request", 90002),
    ],
)
def test_request_that_is_wrong_in_one_point_is_refused(
    client: Client, form: dict[str, str], status: int, error: str, number: int
) -> None:
    answer = client.ask(**form)
    assert answer.status == status
    body = _json(answer)
    assert (body["error"], body["error_codes"]) == (error, [number])


def test_token_request_must_be_a_post(azure: Azure) -> None:
    status, body = _get(azure, f"/{TENANT_ID}/oauth2/v2.0/token")
    assert (status, body["error_codes"]) == (400, [900561])


def test_only_the_owner_can_read_the_files_of_the_application(azure: Azure) -> None:
    files = azure.application_files
    for path in (files.certificate, files.secret, files.token):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_restart_keeps_certificate_and_secret(tmp_path: Path) -> None:
    first, second = (make_azure(tmp_path).application for _ in range(2))
    assert first == second


def test_restart_writes_a_new_platform_token(tmp_path: Path) -> None:
    def expiry(azure: Azure) -> float:
        _, claims = jws_parts(azure.application_files.token.read_text())
        return float(claims["exp"])

    first = expiry(make_azure(tmp_path))
    assert expiry(make_azure(tmp_path, days_later=1)) == first + 86400


def test_empty_secret_file_is_filled(tmp_path: Path) -> None:
    (tmp_path / "application-secret").write_text("\n")
    (secret,) = make_azure(tmp_path).application.secrets
    assert (tmp_path / "application-secret").read_text() == secret
    assert len(secret) == 40


def test_users_own_secret_is_the_registered_one(tmp_path: Path) -> None:
    (tmp_path / "application-secret").write_text("my-own-secret\n")
    azure = make_azure(tmp_path)
    assert Client(azure).ask(client_secret="my-own-secret").status == 200


def test_file_without_a_certificate_is_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "application.pem").write_text("nothing")
    with pytest.raises(
        AgentError, match=r"application\.pem does not contain"
    ) as caught:
        make_azure(tmp_path)
    assert caught.value.code == "emulator.application"


def test_certificate_is_renewed_a_month_before_its_end(tmp_path: Path) -> None:
    azure = make_azure(tmp_path)
    (old,) = azure.application.certificates
    (new,) = make_azure(tmp_path, days_later=380).application.certificates
    assert old.not_valid_after_utc < new.not_valid_after_utc
    pem = azure.application_files.certificate.read_bytes()
    assert x509.load_pem_x509_certificate(pem) == new
