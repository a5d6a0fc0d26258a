"""Azure's own SDK, unmodified, against the emulated IMDS and vaults.

The SDK's check that a challenge's resource belongs to the vault stays on.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

import pytest
import requests
from azure.core.exceptions import (
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from azure.identity import CredentialUnavailableError, ManagedIdentityCredential
from azure.keyvault.keys import (
    JsonWebKey,
    KeyClient,
    KeyReleasePolicy,
    KeyVaultKey,
)
from cryptography.hazmat.primitives import hashes
from support.azure import (
    jws_parts,
    open_sealed,
    unwrap,
)
from support.azure_vm import (
    Json,
    SoftwareVm,
    b64u,
    rsa_key,
    unb64u,
)
from support.deadlines import DEADLINE_SECONDS

from skragent.emulator.azure import Azure
from skragent.emulator.service import Response
from skragent.emulator.thread import LoopThread

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VAULTS = ["skragent-demo", "skragent-hsm"]


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azure]:
    directory = tmp_path_factory.mktemp("azure")
    with LoopThread(
        lambda: Azure.start(directory, SoftwareVm()), lambda azure: azure.close()
    ) as thread:
        yield thread.instance


@pytest.fixture
def credential(
    azure: Azure, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ManagedIdentityCredential]:
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", azure.imds_url)
    with ManagedIdentityCredential(retry_total=0) as credential:
        yield credential


@pytest.fixture(params=VAULTS)
def client(
    request: pytest.FixtureRequest,
    azure: Azure,
    credential: ManagedIdentityCredential,
) -> Iterator[KeyClient]:
    url = azure.vaults[request.param].url
    ca = str(azure.ca_path)
    with KeyClient(url, credential, connection_verify=ca, retry_total=0) as client:
        yield client


@pytest.fixture(scope="module")
def token(azure: Azure) -> str:
    info = SoftwareVm().attestation_info()
    answer = requests.post(
        f"{azure.maa.issuer}/attest/AzureGuest?api-version=2020-10-01",
        json={"AttestationInfo": b64u(json.dumps(info).encode())},
        verify=str(azure.ca_path),
        timeout=DEADLINE_SECONDS,
    )
    return open_sealed(Response(answer.status_code, answer.content))


def _policy(azure: Azure) -> KeyReleasePolicy:
    return KeyReleasePolicy(json.dumps(azure.cvm_policy()).encode())


def test_key_is_created_read_listed_and_released(
    azure: Azure, client: KeyClient, token: str
) -> None:
    created = client.create_rsa_key(
        "k1",
        size=2048,
        hardware_protected=True,
        exportable=True,
        release_policy=_policy(azure),
    )
    version = created.properties.version
    assert client.get_key("k1").properties.version == version
    assert [key.name for key in client.list_properties_of_keys()] == ["k1"]
    versions = client.list_properties_of_key_versions("k1")
    assert version in [key.version for key in versions]
    for wanted in (None, version):
        result = client.release_key(
            "k1", token, version=wanted, algorithm="RSA_AES_KEY_WRAP_256", nonce="n"
        )
        _, payload = jws_parts(result.value)
        released = payload["response"]["key"]["key"]
        assert released["kid"] == created.id
        assert payload["request"]["nonce"] == "n"
        wrapped = json.loads(unb64u(released["key_hsm"]))
        unwrap(unb64u(wrapped["ciphertext"]), rsa_key("wrapping"), hashes.SHA256())


def test_both_paths_of_the_sdk_were_used(azure: Azure, client: KeyClient) -> None:
    name = next(n for n, v in azure.vaults.items() if v.url == client.vault_url)
    targets = [r.target for r in azure.requests if r.service == name]
    assert any("/keys/k1//release" in target for target in targets)


def test_imported_oct_key_is_released_unchanged(
    azure: Azure, client: KeyClient, token: str
) -> None:
    client.import_key(
        "mac",
        JsonWebKey(kty="oct-HSM", k=bytes(range(32))),
        hardware_protected=True,
        exportable=True,
        release_policy=_policy(azure),
    )
    result = client.release_key("mac", token, algorithm="RSA_AES_KEY_WRAP_384")
    _, payload = jws_parts(result.value)
    wrapped = json.loads(unb64u(payload["response"]["key"]["key"]["key_hsm"]))
    target = unwrap(unb64u(wrapped["ciphertext"]), rsa_key("wrapping"), hashes.SHA384())
    assert target == bytes(range(32))


def _create(azure: Azure, client: KeyClient, name: str, **more: Json) -> KeyVaultKey:
    return client.create_ec_key(
        name,
        hardware_protected=True,
        exportable=True,
        release_policy=_policy(azure),
        **more,
    )


def _conflict(caught: pytest.ExceptionInfo[ResourceExistsError]) -> Json:
    assert caught.value.error
    return caught.value.error.innererror


def test_deleted_key_is_not_found_until_it_is_recovered(
    azure: Azure, client: KeyClient, token: str
) -> None:
    created = _create(azure, client, "gone", tags={"a": "b"})
    deleted = client.begin_delete_key("gone").result()
    assert deleted.recovery_id == f"{client.vault_url.rstrip('/')}/deletedkeys/gone"
    assert deleted.deleted_date
    assert deleted.scheduled_purge_date
    assert (deleted.scheduled_purge_date - deleted.deleted_date).days == 7
    for read in (client.get_key, lambda name: client.release_key(name, token)):
        with pytest.raises(ResourceNotFoundError):
            read("gone")
    assert "gone" not in [key.name for key in client.list_properties_of_keys()]
    assert client.get_deleted_key("gone").id == created.id
    assert [key.name for key in client.list_deleted_keys()] == ["gone"]
    recovered = client.begin_recover_deleted_key("gone").result()
    assert recovered.id == created.id
    assert recovered.properties.tags == {"a": "b"}
    assert client.release_key("gone", token).value
    assert not [*client.list_deleted_keys()]


def test_name_of_a_deleted_key_can_be_reused_after_purging(
    azure: Azure, client: KeyClient
) -> None:
    first = _create(azure, client, "name")
    backup = client.backup_key("name")
    client.begin_delete_key("name").result()
    for write in (
        lambda: _create(azure, client, "name"),
        lambda: client.import_key("name", JsonWebKey(kty="oct-HSM", k=bytes(32))),
        lambda: client.restore_key_backup(backup or b""),
    ):
        with pytest.raises(ResourceExistsError) as caught:
            write()  # type: ignore[no-untyped-call]
        assert _conflict(caught) == {"code": "ObjectIsDeletedButRecoverable"}
    client.purge_deleted_key("name")
    for forget in (
        client.get_deleted_key,
        client.purge_deleted_key,
        client.begin_recover_deleted_key,
    ):
        with pytest.raises(ResourceNotFoundError, match="Deleted Key not found"):
            forget("name")
    assert _create(azure, client, "name").id != first.id


def test_rotated_key_has_a_new_version_of_its_kind(
    azure: Azure, client: KeyClient, token: str
) -> None:
    first = _create(azure, client, "turned", curve="P-384", tags={"a": "b"})
    second = client.rotate_key("turned")
    assert second.id != first.id
    assert client.get_key("turned").id == second.id
    for attribute in ("crv", "kty", "key_ops"):
        assert getattr(second.key, attribute) == getattr(first.key, attribute)
    assert second.key.x != first.key.x  # type: ignore[attr-defined]
    assert second.properties.tags == {"a": "b"}
    assert second.properties.exportable
    for version in (first, second):
        released = client.release_key(
            "turned", token, version=version.properties.version
        )
        _, payload = jws_parts(released.value)
        assert payload["response"]["key"]["key"]["kid"] == version.id
    with pytest.raises(ResourceNotFoundError):
        client.rotate_key("none")


def test_backup_restores_all_versions_of_a_purged_key(
    azure: Azure, client: KeyClient, token: str
) -> None:
    first = _create(azure, client, "kept")
    second = client.rotate_key("kept")
    backup = client.backup_key("kept")
    assert backup
    with pytest.raises(ResourceExistsError):
        client.restore_key_backup(backup)
    client.begin_delete_key("kept").result()
    client.purge_deleted_key("kept")
    assert client.restore_key_backup(backup).id == second.id
    assert client.get_key("kept", first.properties.version).key.x == first.key.x  # type: ignore[attr-defined]
    assert client.release_key("kept", token).value


def test_backup_of_a_vault_is_not_restored_to_an_hsm(
    azure: Azure, credential: ManagedIdentityCredential
) -> None:
    ca = str(azure.ca_path)
    with contextlib.ExitStack() as clients:
        vault, hsm = (
            clients.enter_context(
                KeyClient(
                    azure.vaults[name].url,
                    credential,
                    connection_verify=ca,
                    retry_total=0,
                )
            )
            for name in VAULTS
        )
        _create(azure, vault, "elsewhere")
        backup = vault.backup_key("elsewhere")
        assert backup
        for blob in (backup, b"", b"no backup"):
            with pytest.raises(HttpResponseError) as caught:
                hsm.restore_key_backup(blob)
            assert caught.value.status_code == 400


def test_only_managed_hsm_returns_random_bytes(azure: Azure, client: KeyClient) -> None:
    if client.vault_url == azure.vaults[VAULTS[0]].url:
        with pytest.raises(HttpResponseError) as caught:
            client.get_random_bytes(16)
        assert caught.value.status_code == 400
        return
    sizes = [len(client.get_random_bytes(count)) for count in (1, 128)]
    assert sizes == [1, 128]
    assert client.get_random_bytes(32) != client.get_random_bytes(32)
    with pytest.raises(HttpResponseError) as caught:
        client.get_random_bytes(129)
    assert caught.value.status_code == 400


def test_unknown_key_raises_the_sdks_not_found_error(client: KeyClient) -> None:
    with pytest.raises(ResourceNotFoundError) as caught:
        client.get_key("none")
    assert caught.value.error
    assert caught.value.error.code == "KeyNotFound"


def test_missing_permission_raises_the_sdks_forbidden_error(
    azure: Azure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", azure.imds_url)
    vault = azure.vaults[VAULTS[0]]
    with (
        ManagedIdentityCredential(
            client_id=azure.unprivileged_identity.client_id
        ) as unprivileged_identity,
        KeyClient(
            vault.url,
            unprivileged_identity,
            connection_verify=str(azure.ca_path),
            retry_total=0,
        ) as client,
        pytest.raises(HttpResponseError) as caught,
    ):
        client.release_key("k1", "token")
    assert caught.value.status_code == 403
    assert caught.value.error
    assert caught.value.error.innererror == {"code": "AccessDenied"}


def test_unknown_identity_raises_the_sdks_unavailable_credential_error(
    azure: Azure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", azure.imds_url)
    with (
        ManagedIdentityCredential(client_id="nobody", retry_total=0) as credential,
        pytest.raises(CredentialUnavailableError, match="Identity not found"),
    ):
        credential.get_token("https://vault.azure.net/.default")


def test_first_release_is_a_challenge_and_a_release_on_one_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    # A separate vault: the SDK caches challenges until the process ends.
    with LoopThread(
        lambda: Azure.start(tmp_path, SoftwareVm()), lambda azure: azure.close()
    ) as thread:
        fresh = thread.instance
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", fresh.imds_url)
        with (
            ManagedIdentityCredential(retry_total=0) as credential,
            KeyClient(
                fresh.vaults[VAULTS[0]].url,
                credential,
                connection_verify=str(fresh.ca_path),
                retry_total=0,
            ) as client,
            pytest.raises(ResourceNotFoundError),
        ):
            client.release_key("none", token)
        ours = [r for r in fresh.requests if r.service == VAULTS[0]]
    assert [r.status for r in ours] == [401, 404]
    assert len({r.connection for r in ours}) == 1
