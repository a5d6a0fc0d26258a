"""The emulated vaults around release: challenge, access, writing and reading keys."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from support.azure import (
    ask,
    make_azure,
)
from support.azure_vm import (
    Json,
    b64u,
    unb64u,
)

from skragent.emulator.keyvault.key_store import KeyStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skragent.emulator.azure import Azure
    from skragent.emulator.keyvault.vault import Vault
    from skragent.emulator.service import Response

API = "?api-version=7.3"
POLICY = {
    "anyOf": [
        {
            "authority": "https://maa.test/",
            "allOf": [{"equals": True, "claim": "secureboot"}],
        }
    ],
    "version": "1.0.0",
}


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Azure:
    return make_azure(tmp_path_factory.mktemp("azure"))


@pytest.fixture
def vault(azure: Azure) -> Iterator[Vault]:
    vault = azure.vaults["skragent-demo"]
    yield vault
    for name in vault.store.names:
        vault.store.delete(name)
    vault.access.grant(azure.vm_identity.object_id)
    vault.access.model = "policies"


def _bearer(azure: Azure, vault: Vault) -> dict[str, str]:
    token, _ = azure.entra.issue(azure.vm_identity, vault.resource, azure.clock.now())
    return {"authorization": f"Bearer {token}"}


def _ask(
    azure: Azure, vault: Vault, method: str, target: str, body: object = None
) -> Response:
    return ask(vault, method, target, body, _bearer(azure, vault))


def _exportable(policy: object = POLICY, **body: Json) -> dict[str, Any]:
    return {
        "kty": "RSA-HSM",
        "attributes": {"exportable": True},
        "release_policy": {"data": b64u(json.dumps(policy).encode())},
    } | body


def _error(answer: Response) -> tuple[int, str, str]:
    error = json.loads(answer.body)["error"]
    return answer.status, error["code"], error["message"]


def test_request_without_a_token_is_challenged_with_the_recorded_body(
    vault: Vault,
) -> None:
    answer = ask(vault, "POST", f"/keys/k/release{API}")
    assert (answer.status, len(answer.body)) == (401, 97)
    challenge = answer.headers["WWW-Authenticate"]
    assert challenge.startswith('Bearer authorization="https://login.microsoftonline.')
    assert challenge.endswith(f', resource="{vault.resource}"')


def test_hsm_challenges_with_an_empty_body(azure: Azure) -> None:
    answer = ask(azure.vaults["skragent-hsm"], "GET", f"/keys{API}")
    assert (answer.status, answer.body) == (401, b"")
    assert "WWW-Authenticate" in answer.headers


def test_resource_is_the_url_without_its_first_label(vault: Vault) -> None:
    assert (vault.url, vault.resource) == ("https://skragent-demo.test", "https://test")


@pytest.mark.parametrize("token", ["x", "a.b.c", "..", "é.é.é"])
def test_token_that_entra_did_not_sign_is_unauthorized(
    vault: Vault, token: str
) -> None:
    headers = {"authorization": f"Bearer {token}"}
    answer = ask(vault, "GET", f"/keys{API}", headers=headers)
    assert _error(answer)[:2] == (401, "Unauthorized")


def test_token_for_another_audience_is_unauthorized(azure: Azure, vault: Vault) -> None:
    token, _ = azure.entra.issue(
        azure.vm_identity, "https://vault.azure.net", azure.clock.now()
    )
    answer = ask(
        vault, "GET", f"/keys{API}", headers={"authorization": f"Bearer {token}"}
    )
    assert (answer.status, "AKV10022" in answer.body.decode()) == (401, True)


def test_expired_token_is_unauthorized(azure: Azure, vault: Vault) -> None:
    headers = _bearer(azure, vault)
    azure.clock.skew_seconds = 100000.0
    answer = ask(vault, "GET", f"/keys{API}", headers=headers)
    azure.clear_hooks()
    assert (answer.status, "TokenExpired" in answer.body.decode()) == (401, True)


@pytest.mark.parametrize(
    "version", ["", "?api-version=7.2", "?api-version=2016-10-01x"]
)
def test_api_version_before_release_is_a_bad_parameter(
    azure: Azure, vault: Vault, version: str
) -> None:
    answer = _ask(azure, vault, "GET", f"/keys{version}")
    assert _error(answer)[:2] == (400, "BadParameter")


@pytest.mark.parametrize(
    "version", ["7.7", "7.99", "8.0", "2025-07-02", "2031-01-01", "2026-04-01-preview"]
)
def test_unknown_api_version_is_refused_in_key_vaults_words(
    azure: Azure, vault: Vault, version: str
) -> None:
    answer = _ask(azure, vault, "GET", f"/keys?api-version={version}")
    assert _error(answer) == (
        400,
        "BadParameter",
        (
            f"The specified version ({version}) is not recognized. Consider using the"
            " latest supported version (2026-04-01)."
        ),
    )


@pytest.mark.parametrize("version", ["7.3", "7.6", "2025-07-01", "2026-04-01"])
def test_published_api_version_with_release_is_served(
    azure: Azure, vault: Vault, version: str
) -> None:
    answer = _ask(azure, vault, "GET", f"/keys?api-version={version}")
    assert answer.status == 200


def test_identity_without_the_permission_is_told_so(azure: Azure, vault: Vault) -> None:
    vault.access.grant(azure.vm_identity.object_id, "get")
    answer = _ask(azure, vault, "POST", f"/keys/k/release{API}", {})
    error = json.loads(answer.body)["error"]
    assert (answer.status, error["innererror"]["code"]) == (403, "AccessDenied")
    assert f"appid={azure.vm_identity.client_id};" in error["message"]
    assert "does not have keys release permission" in error["message"]


def test_rbac_vault_says_forbidden_by_rbac(azure: Azure, vault: Vault) -> None:
    vault.access.model = "rbac"
    del vault.access.grants[azure.vm_identity.object_id]
    answer = _ask(azure, vault, "POST", f"/keys/k/release{API}", {})
    error = json.loads(answer.body)["error"]
    assert (answer.status, error["innererror"]["code"]) == (403, "ForbiddenByRbac")
    assert "vaults/keys/release/action" in error["message"]


def test_created_key_is_found_by_name_and_by_version(
    azure: Azure, vault: Vault
) -> None:
    created = json.loads(
        _ask(azure, vault, "POST", f"/keys/k/create{API}", _exportable()).body
    )
    version = created["key"]["kid"].rpartition("/")[2]
    for path in ("/keys/k", "/keys/k/", f"/keys/k/{version}"):
        assert json.loads(_ask(azure, vault, "GET", path + API).body) == created
    assert created["attributes"]["exportable"] is True


def test_vault_canonicalises_the_policy(azure: Azure, vault: Vault) -> None:
    answer = _ask(azure, vault, "POST", f"/keys/k/create{API}", _exportable())
    data = unb64u(json.loads(answer.body)["release_policy"]["data"])
    assert data == (
        b'{"version":"1.0.0","anyOf":[{"authority":"https://maa.test/",'
        b'"allOf":[{"equals":"true","claim":"secureboot"}]}]}'
    )


def test_hsm_keeps_the_policy_as_sent_with_members_sorted(azure: Azure) -> None:
    hsm = azure.vaults["skragent-hsm"]
    answer = _ask(azure, hsm, "POST", f"/keys/k/create{API}", _exportable())
    data = unb64u(json.loads(answer.body)["release_policy"]["data"])
    assert data == (
        b'{"anyOf":[{"allOf":[{"claim":"secureboot","equals":true}],'
        b'"authority":"https://maa.test/"}],"version":"1.0.0"}'
    )


def test_keys_and_versions_are_listed(azure: Azure, vault: Vault) -> None:
    for _ in range(2):
        _ask(azure, vault, "POST", f"/keys/k/create{API}", _exportable())
    keys = json.loads(_ask(azure, vault, "GET", f"/keys{API}").body)["value"]
    assert [key["kid"] for key in keys] == [f"{vault.url}/keys/k"]
    versions = json.loads(_ask(azure, vault, "GET", f"/keys/k/versions{API}").body)
    assert len({item["kid"] for item in versions["value"]}) == 2


def test_keys_survive_a_restart(azure: Azure, vault: Vault) -> None:
    for kty in ("RSA-HSM", "EC-HSM", "oct-HSM"):
        _ask(azure, vault, "POST", f"/keys/{kty}/create{API}", _exportable(kty=kty))
    store = KeyStore(vault.store._directory)
    assert store.names == vault.store.names
    for name in store.names:
        old, new = vault.store.find(name), store.find(name)
        assert old
        assert new
        assert old.latest.target == new.latest.target
        assert old.policy == new.policy
        path = vault.store._directory / f"{name}.json"
        assert path.stat().st_mode & 0o777 == 0o600


def test_imported_key_is_the_key(azure: Azure, vault: Vault) -> None:
    key = rsa.generate_private_key(65537, 2048)
    numbers = key.private_numbers()
    jwk = {
        name: b64u(value.to_bytes((value.bit_length() + 7) // 8, "big"))
        for name, value in {
            "n": numbers.public_numbers.n,
            "e": 65537,
            "d": numbers.d,
            "p": numbers.p,
            "q": numbers.q,
        }.items()
    }
    body = _exportable(key={"kty": "RSA", **jwk}, hsm=True)
    answer = _ask(azure, vault, "PUT", f"/keys/k{API}", body)
    assert json.loads(answer.body)["key"]["kty"] == "RSA-HSM"
    stored = vault.store.find("k")
    assert stored
    assert isinstance(stored.latest.material, rsa.RSAPrivateKey)
    assert stored.latest.material.private_numbers().d == numbers.d


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no-policy": (_exportable(release_policy=None), "AKV.SKR.1004"),
    "not-exportable": (_exportable(attributes={}), "AKV.SKR.1005"),
    "software-key": (_exportable(kty="RSA"), "AKV.SKR.1006"),
    "not-json": (_exportable(release_policy={"data": b64u(b"{")}), "AKV.SKR.1010"),
    "utf-16": (
        _exportable(release_policy={"data": b64u(json.dumps(POLICY).encode("utf-16"))}),
        "AKV.SKR.1010",
    ),
    "utf-16-without-mark": (
        _exportable(
            release_policy={"data": b64u(json.dumps(POLICY).encode("utf-16-le"))}
        ),
        "AKV.SKR.1010",
    ),
    "utf-32": (
        _exportable(release_policy={"data": b64u(json.dumps(POLICY).encode("utf-32"))}),
        "AKV.SKR.1010",
    ),
    "no-version": (_exportable({"anyOf": POLICY["anyOf"]}), "AKV.SKR.1010"),
    "empty": (_exportable({"version": "1.0.0", "anyOf": []}), "AKV.SKR.1010"),
    "no-group": (
        _exportable({"version": "1.0.0", "anyOf": [{"authority": "https://m"}]}),
        "AKV.SKR.1010",
    ),
    "operator": (
        _exportable(
            {
                "version": "1.0.0",
                "anyOf": [
                    {
                        "authority": "https://m",
                        "allOf": [{"claim": "a", "notEquals": "b"}],
                    }
                ],
            }
        ),
        "AKV.SKR.1010",
    ),
    "data-is-not-base64": (_exportable(release_policy={"data": "é"}), "base64url"),
    "key-type": (_exportable(kty="DSA-HSM"), "not supported"),
    "key-size": (_exportable(key_size=1024), "1024"),
}


@pytest.mark.parametrize("case", BAD)
def test_key_that_breaks_a_rule_is_a_bad_parameter(
    azure: Azure, vault: Vault, case: str
) -> None:
    body, why = BAD[case]
    status, code, message = _error(
        _ask(azure, vault, "POST", f"/keys/k/create{API}", body)
    )
    assert (status, code) == (400, "BadParameter")
    assert why in message
    assert vault.store.find("k") is None


def test_immutable_policy_cannot_be_changed(azure: Azure, vault: Vault) -> None:
    data = b64u(json.dumps(POLICY).encode())
    body = _exportable(release_policy={"data": data, "immutable": True})
    assert _ask(azure, vault, "POST", f"/keys/k/create{API}", body).status == 200
    change = {"release_policy": {"data": data}}
    answer = _ask(azure, vault, "PATCH", f"/keys/k{API}", change)
    assert "AKV.SKR.1020" in _error(answer)[2]


def test_policy_of_one_version_cannot_be_set(azure: Azure, vault: Vault) -> None:
    _ask(azure, vault, "POST", f"/keys/k/create{API}", _exportable())
    key = vault.store.find("k")
    assert key
    change = {"release_policy": {"data": b64u(json.dumps(POLICY).encode())}}
    answer = _ask(azure, vault, "PATCH", f"/keys/k/{key.latest.version}{API}", change)
    assert "AKV.SKR.1016" in _error(answer)[2]


def test_exportable_cannot_be_changed(azure: Azure, vault: Vault) -> None:
    _ask(azure, vault, "POST", f"/keys/k/create{API}", _exportable())
    change = {"attributes": {"exportable": False}}
    answer = _ask(azure, vault, "PATCH", f"/keys/k{API}", change)
    assert "AKV.SKR.1003" in _error(answer)[2]


def test_refused_new_version_leaves_the_key_as_it_was(
    azure: Azure, vault: Vault
) -> None:
    _ask(azure, vault, "POST", f"/keys/k/create{API}", _exportable())
    key = vault.store.find("k")
    assert key
    other = POLICY | {"anyOf": [POLICY["anyOf"][0]] * 2}
    body = _exportable(other, tags={"a": 1})
    assert _ask(azure, vault, "POST", f"/keys/k/create{API}", body).status == 400
    assert vault.store.find("k") == key


def test_answers_carry_request_ids(azure: Azure, vault: Vault) -> None:
    headers = _bearer(azure, vault) | {"x-ms-client-request-id": "mine"}
    answer = ask(vault, "GET", f"/keys/none{API}", headers=headers)
    assert answer.headers["x-ms-client-request-id"] == "mine"
    assert answer.headers["x-ms-request-id"]
    assert answer.headers["x-ms-keyvault-region"] == "eastus2"
