from __future__ import annotations

import pytest

from skragent.config import (
    MAX_CONFIG_BYTES,
    AllowRule,
    parse_config,
)
from skragent.config_settings import REMOVED
from skragent.errors import ConfigError
from skragent.job import MAX_KEYS

KEY = '[keys.disk]\nvault = "https://v.vault.azure.net"\n'


def problems_of(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text)
    return caught.value.problems


def test_the_shortest_configuration_is_one_key() -> None:
    config = parse_config(KEY)
    assert config.keys["disk"].vault == "https://v.vault.azure.net"
    assert config.attestation.endpoint == "auto"


def test_a_key_without_rules_is_nobodys() -> None:
    assert parse_config(KEY).keys["disk"].allow == ()


def test_rules_name_users_and_groups_by_name_or_number() -> None:
    text = KEY + 'allow = [{ user = "postgres" }, { user = 0, group = 6 }]'
    assert parse_config(text).keys["disk"].allow == (
        AllowRule(user="postgres"),
        AllowRule(user=0, group=6),
    )


def test_a_whole_number_of_seconds_is_a_duration() -> None:
    text = "[limits]\nrequest_timeout_seconds = 5\n" + KEY
    assert parse_config(text).limits.request_timeout_seconds == 5.0


def test_a_file_other_than_toml_is_a_syntax_error() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config("[keys")
    assert caught.value.code == "config.syntax"


def test_a_file_that_is_too_long_is_refused() -> None:
    assert len(problems_of("#" * (MAX_CONFIG_BYTES + 1))) == 1


def test_all_problems_are_told_at_once() -> None:
    text = (
        '[agent]\napi_socket = "api.sock"\nmetrics_listen = 9469\n'
        "[limits]\nrequest_timeout_seconds = 0\n"
        '[keys.disk]\nvault = "v"\nversion = "1"\n'
    )
    assert [problem.partition(":")[0] for problem in problems_of(text)] == [
        "agent.metrics_listen",
        "agent.api_socket",
        "limits.request_timeout_seconds",
        "keys.disk.vault",
        "keys.disk.version",
    ]


@pytest.mark.parametrize("setting", REMOVED)
def test_a_removed_setting_is_named_with_its_replacement(setting: str) -> None:
    value = " = 1" if "." in setting else ".token_fraction = 0.5"
    problem = f"{setting}: removed in version 0.2: {REMOVED[setting]}"
    assert problems_of(f"{setting}{value}\n{KEY}") == [problem]


def test_a_misspelt_setting_is_refused_with_the_one_that_was_meant() -> None:
    problems = problems_of('[agent]\napi_sock = "/run/a"\n' + KEY)
    assert problems == ["agent.api_sock: no such setting; did you mean `api_socket`?"]


def test_a_setting_that_is_unlike_any_is_refused() -> None:
    assert problems_of("[xyzzy]\n" + KEY) == ["xyzzy: no such setting"]


def test_a_missing_setting_is_named() -> None:
    assert problems_of('[keys.disk]\nname = "d"') == [
        "keys.disk.vault: missing; give vault or id"
    ]


def test_a_key_without_a_vault_is_judged_all_the_same() -> None:
    text = '[keys.disk]\nname = "a b"\nversion = "1"\nallow = [{ unit = "[a" }]'
    assert [p.partition(":")[0] for p in problems_of(text)] == [
        "keys.disk.vault",
        "keys.disk.name",
        "keys.disk.version",
        "keys.disk.allow[0].unit",
    ]


def test_a_value_where_a_table_should_be_is_named() -> None:
    assert problems_of("limits = 5\n" + KEY) == ["limits: expected a table, got int"]


def test_a_list_where_a_table_of_keys_should_be_is_named() -> None:
    assert problems_of("keys = []") == ["keys: expected a table, got a list"]


def test_a_rule_other_than_a_table_is_rejected_with_its_index() -> None:
    problems = problems_of(KEY + 'allow = [{ user = 1 }, "me"]')
    assert problems == ["keys.disk.allow[1]: expected a table, got str"]


def test_allow_other_than_a_list_is_rejected() -> None:
    problems = problems_of(KEY + "allow = true")
    assert problems == ["keys.disk.allow: expected a list, got true or false"]


def test_a_configuration_without_keys_is_refused() -> None:
    assert problems_of("") == ["keys: no key is configured; add a [keys.NAME] table"]


def test_more_keys_than_a_vault_would_release_are_refused() -> None:
    text = "".join(KEY.replace("disk", f"k{i}") for i in range(MAX_KEYS + 1))
    assert len(problems_of(text)) == 1


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("agent.api_socket", '"api.sock"'),
        ("agent.metrics_listen", '"9469"'),
        ("agent.metrics_listen", '"127.0.0.1:0"'),
        ("agent.metrics_listen", '"127.0.0.1:65536"'),
        ("attestation.endpoint", '"http://sharedeus.eus.attest.azure.net"'),
        ("attestation.endpoint", '""'),
        ("vtpm.tcti", '"/dev/tpmrm0"'),
        ("imds.endpoint", '"https://169.254.169.254"'),
        ("trust.amd_roots", '"ark.pem"'),
        ("trust.tls_roots", '"ca.pem"'),
        ("trust.release_roots", '"ca.pem"'),
        ("limits.request_timeout_seconds", "0.0"),
        ("limits.request_timeout_seconds", "301"),
        ("limits.request_timeout_seconds", "nan"),
        ("limits.request_timeout_seconds", "true"),
        ("limits.request_timeout_seconds", "inf"),
    ],
)
def test_a_bad_value_is_named_with_its_place(setting: str, value: str) -> None:
    table, _, name = setting.partition(".")
    (problem,) = problems_of(f"[{table}]\n{name} = {value}\n{KEY}")
    assert problem.startswith(f"{setting}: ")


@pytest.mark.parametrize(
    "vault",
    [
        "http://v.vault.azure.net",
        "v.vault.azure.net",
        "https://",
        "https://v.vault.azure.net/keys/k",
        "https://v.vault.azure.net?x=1",
        "https://v.vault.azure.net#x",
        "https://me:secret@v.vault.azure.net",
        "https://v.vault.azure.net:0",
        "https://v.vault.azure.net:x",
        "https://[v",
    ],
)
def test_a_vault_other_than_an_origin_is_rejected(vault: str) -> None:
    (problem,) = problems_of(f'[keys.disk]\nvault = "{vault}"')
    assert problem.startswith("keys.disk.vault: ")


@pytest.mark.parametrize(
    "vault", ["https://v.managedhsm.azure.net/", "https://127.0.0.1:8443"]
)
def test_a_vault_may_have_a_port_and_a_slash(vault: str) -> None:
    text = f'[keys.disk]\nvault = "{vault}"'
    assert parse_config(text).keys["disk"].vault == vault


@pytest.mark.parametrize("alias", ["-disk", "", "a/b", "a" * 65, "ä"])
def test_a_name_that_workloads_could_not_ask_for_is_refused(alias: str) -> None:
    text = KEY.replace("disk", f'"{alias}"') + 'name = "disk"'
    (problem,) = problems_of(text)
    assert problem.startswith(f"keys.{alias}: ")


def test_a_name_that_no_vault_has_is_refused() -> None:
    (problem,) = problems_of(KEY.replace("disk", "my_disk"))
    assert problem.startswith("keys.my_disk.name: ")


def test_a_version_in_upper_case_is_refused() -> None:
    (problem,) = problems_of(f'{KEY}version = "{"A" * 32}"')
    assert problem.startswith("keys.disk.version: ")


@pytest.mark.parametrize("who", ["{}", '{ user = "" }', "{ user = -1 }"])
def test_a_rule_with_an_impossible_user_is_rejected(who: str) -> None:
    (problem,) = problems_of(f"{KEY}allow = [{who}]")
    assert problem.startswith("keys.disk.allow[0]")


def test_the_uid_of_no_user_is_rejected() -> None:
    (problem,) = problems_of(f"{KEY}allow = [{{ group = {2**32 - 1} }}]")
    assert problem.startswith("keys.disk.allow[0].group: ")
