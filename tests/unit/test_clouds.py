"""Azure's clouds, and the cloud of a vault."""

from __future__ import annotations

import pytest
from azure.identity import AzureAuthorityHosts

from skragent.agent.jobs import build_job, key_requests
from skragent.clouds import CLOUDS, cloud_of, judge_vault_host
from skragent.config import parse_config
from skragent.errors import ConfigError


@pytest.mark.parametrize(
    ("vault", "expected"),
    [
        ("https://a.vault.azure.net", "public"),
        ("https://a.ManagedHSM.azure.net:443/", "public"),
        ("https://a.vault.usgovcloudapi.net", "usgovernment"),
        ("https://a.managedhsm.azure.cn", "china"),
        ("https://127.0.0.1:8443", ""),
        ("https://vault.azure.net", ""),
        ("https://avault.azure.net", ""),
        ("https://a.vault.azure.net.example.com", ""),
        ("", ""),
    ],
)
def test_the_host_of_a_vault_determines_its_cloud(vault: str, expected: str) -> None:
    assert cloud_of(vault) == expected


def test_the_authorities_equal_those_of_azure_identity() -> None:
    theirs = {
        AzureAuthorityHosts.AZURE_PUBLIC_CLOUD,
        AzureAuthorityHosts.AZURE_GOVERNMENT,
        AzureAuthorityHosts.AZURE_CHINA,
    }
    ours = {cloud.authority.removeprefix("https://") for cloud in CLOUDS.values()}
    assert ours == theirs


@pytest.mark.parametrize("cloud", CLOUDS)
def test_one_setting_chooses_the_issuer_of_access_tokens(cloud: str) -> None:
    host = CLOUDS[cloud].suffixes[0]
    config = parse_config(f'cloud = "{cloud}"\n[keys.a]\nvault = "https://a.{host}"')
    keys = list(key_requests(config).values())
    job = build_job(config, keys, now=0, arena_fd=0, arena_bytes=0, tcg_log="")
    assert job.authority == CLOUDS[cloud].authority


def test_a_vault_of_another_cloud_is_refused_with_its_name() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config('[keys.a]\nvault = "https://a.vault.azure.cn"')
    assert caught.value.problems == [
        'keys.a.vault: this vault is in another cloud of Azure: set cloud = "china"'
    ]


def test_an_unknown_cloud_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config('cloud = "chine"\n[keys.a]\nvault = "https://a.vault.azure.net"')
    (problem,) = caught.value.problems
    assert problem.startswith("cloud: must be one of public, usgovernment, china")
    assert "did you mean `china`" in problem


@pytest.mark.parametrize(
    ("vault", "remedy"),
    [
        ("https://a.vault.azure.ne", "https://a.vault.azure.net"),
        ("https://a.vaults.azure.net:443/", "https://a.vault.azure.net"),
        ("https://a.managedhsm.azure.com", "https://a.managedhsm.azure.net"),
        ("https://a.vault.usgovcloudapi.com", "https://a.vault.usgovcloudapi.net"),
        ("https://vault.azure.net", "https://NAME.vault.azure.net"),
        ("https://keys.example.com", "https://NAME.vault.azure.net or "),
        ("https://A.privatelink.vaultcore.azure.net", "https://a.vault.azure.net,"),
        ("https://a.vaultcore.azure.net", "https://a.vault.azure.net,"),
        ("https://a.privatelink.vaultcore.azure.cn", "https://a.vault.azure.cn,"),
        ("https://a.privatelink.managedhsm.azure.net", "https://a.managedhsm.azure.ne"),
    ],
)
def test_a_host_of_no_cloud_has_a_warning_with_a_remedy(
    vault: str, remedy: str
) -> None:
    assert f": write {remedy}" in judge_vault_host(vault, cloud="public")


def test_a_host_in_no_cloud_is_compared_with_the_configured_cloud() -> None:
    text = judge_vault_host("https://keys.example.com", cloud="china")
    assert "https://NAME.vault.azure.cn or https://NAME.managedhsm.azure.cn" in text


@pytest.mark.parametrize(
    "vault",
    [
        *(f"https://a.{suffix}" for cloud in CLOUDS.values() for suffix in cloud[1]),
        "https://A.Vault.Azure.Net:443/",
        "https://127.0.0.1:8443",
        "https://[::1]:8443",
        "https://localhost:8443",
    ],
)
def test_the_host_of_a_vault_or_of_the_emulator_is_accepted(vault: str) -> None:
    assert judge_vault_host(vault, cloud="public") == ""
