"""A key may be given by the id that Azure shows, in place of its parts."""

from __future__ import annotations

import pytest

from skragent.agent.jobs import key_requests
from skragent.config import parse_config
from skragent.errors import ConfigError

VERSION = "0123456789abcdef" * 2
ID = "https://v.vault.azure.net/keys/Disk-1"


def problem_of(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(text)
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize("version", ["", VERSION])
def test_an_id_is_the_same_as_its_parts(version: str) -> None:
    key_id = f"{ID}/{version}" if version else ID
    parts = 'vault = "https://v.vault.azure.net"\nname = "Disk-1"\n'
    parts += f'version = "{version}"'
    by_id = parse_config(f'[keys.disk]\nid = "{key_id}"')
    assert key_requests(by_id) == key_requests(parse_config(f"[keys.disk]\n{parts}"))


def test_an_id_may_name_a_managed_hsm() -> None:
    config = parse_config('[keys.a]\nid = "https://h.managedhsm.azure.net/keys/k"')
    assert key_requests(config)["a"].vault == "https://h.managedhsm.azure.net"


def test_a_name_for_workloads_need_not_be_a_vaults_if_an_id_is_given() -> None:
    requests = key_requests(parse_config(f'[keys.a_b]\nid = "{ID}"'))
    assert requests["a_b"].name == "Disk-1"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("vault", "https://v.vault.azure.net"),
        ("name", "Disk-1"),
        ("version", VERSION),
    ],
)
def test_an_id_together_with_one_of_its_parts_is_refused(
    setting: str, value: str
) -> None:
    assert problem_of(f'[keys.disk]\nid = "{ID}"\n{setting} = "{value}"') == (
        "keys.disk.id: the id has the vault, name and version already: remove"
        f" {setting}, or remove id"
    )


@pytest.mark.parametrize(
    "key_id",
    [
        "https://v.vault.azure.net",
        "https://v.vault.azure.net/keys/",
        "https://v.vault.azure.net/secrets/a",
        "https://v.vault.azure.net/keys/a_b",
        "https://v.vault.azure.net/keys/a?b",
        "http://v.vault.azure.net/keys/a",
        "https:///keys/a",
        "v.vault.azure.net/keys/a",
    ],
)
def test_an_invalid_key_id_is_rejected_with_the_right_form(key_id: str) -> None:
    assert problem_of(f'[keys.disk]\nid = "{key_id}"') == (
        f"keys.disk.id: must be https://HOST/keys/NAME[/VERSION], not `{key_id}`"
    )


@pytest.mark.parametrize("version", ["", "1", VERSION.upper(), VERSION + "0"])
def test_an_id_with_a_wrong_version_is_refused_with_the_versions_form(
    version: str,
) -> None:
    assert problem_of(f'[keys.disk]\nid = "{ID}/{version}"').startswith(
        "keys.disk.id: the version behind NAME must be 32 hexadecimal digits in lower"
        " case, or left out, not `"
    )


def test_an_alias_that_cannot_be_a_vaults_key_name_needs_a_name() -> None:
    problem = problem_of('[keys.a_b]\nvault = "https://v.vault.azure.net"')
    assert problem.startswith(
        "keys.a_b.name: missing; give the key's name in the vault, because `a_b` cannot"
    )


def test_an_id_with_a_password_is_not_shown() -> None:
    said = problem_of('[keys.disk]\nid = "https://u:secret@v.vault.azure.net/keys/a"')
    assert "secret" not in said


def test_an_id_in_another_cloud_is_refused_by_its_own_setting() -> None:
    said = problem_of('[keys.disk]\nid = "https://v.vault.azure.cn/keys/a"')
    assert said == (
        'keys.disk.id: this vault is in another cloud of Azure: set cloud = "china"'
    )


def test_a_key_with_neither_vault_nor_id_is_refused() -> None:
    said = problem_of("[keys.disk]\nversion_check_seconds = 0")
    assert said == "keys.disk.vault: missing; give vault or id"
