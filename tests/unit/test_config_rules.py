"""The limits of each rule, and what a problem may say of the value that has it."""

from __future__ import annotations

import msgspec
import pytest

from skragent.config import MAX_CONFIG_BYTES, Config, ServingConfig, parse_config
from skragent.config_rules import MAX_SHOWN
from skragent.errors import ConfigError

KEY = '[keys.disk]\nvault = "https://v.vault.azure.net"\n'
UUID = "11111111-2222-3333-4444-55555555aAbB"


def problems_of(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text)
    return caught.value.problems


def with_setting(setting: str, value: str) -> str:
    table, _, name = setting.partition(".")
    return f"[{table}]\n{name} = {value}\n{KEY}"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("agent.api_socket", f'"/{"s" * 106}"'),
        ("agent.credentials_socket", f'"/{"s" * 106}"'),
        ("agent.admin_socket", f'"/{"s" * 106}"'),
        ("agent.admin_socket", '""'),
        ("agent.unit_rules_without_pidfd", "true"),
        ("agent.metrics_listen", '""'),
        ("agent.metrics_listen", '"localhost:1"'),
        ("agent.metrics_listen", '"0.0.0.0:65535"'),
        ("agent.metrics_listen", '"[::1]:9469"'),
        ("agent.metrics_listen", '"::1:9469"'),
        ("attestation.endpoint", '"https://me.weu.attest.azure.net"'),
        ("identity.client_id", f'"{UUID}"'),
        ("vtpm.tcti", '"swtpm"'),
        ("vtpm.tcti", '"swtpm:path=/run/tpm.sock"'),
        ("vtpm.tcg_log", '""'),
        ("imds.endpoint", '"http://[::1]:8080"'),
        ("trust.amd_roots", '""'),
        ("limits.request_timeout_seconds", "0.1"),
        ("limits.request_timeout_seconds", "300"),
    ],
)
def test_a_value_at_the_limit_is_accepted(setting: str, value: str) -> None:
    assert isinstance(parse_config(with_setting(setting, value)), Config)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("agent.api_socket", '""'),
        ("agent.api_socket", f'"/{"s" * 107}"'),
        ("agent.credentials_socket", f'"/{"s" * 107}"'),
        ("agent.credentials_socket", '"run/credentials.sock"'),
        ("agent.credentials_socket", '"/run/skragent/api.sock"'),
        ("agent.admin_socket", f'"/{"s" * 107}"'),
        ("agent.admin_socket", r'"/run/a\n"'),
        ("agent.admin_socket", '"/run/skragent/credentials.sock"'),
        ("agent.unit_rules_without_pidfd", "1"),
        ("agent.unit_rules_without_pidfd", '"true"'),
        ("agent.api_socket", f'"/{"ä" * 54}"'),
        ("agent.api_socket", r'"/run/a\u0000b"'),
        ("agent.api_socket", "2026-01-01T00:00:00Z"),
        ("agent.metrics_listen", '"a..b:1"'),
        ("agent.metrics_listen", r'"a\u0000:1"'),
        ("agent.metrics_listen", f'"{"a" * 64}:1"'),
        ("agent.metrics_listen", '"[::1:1"'),
        ("agent.metrics_listen", '"[fe80::1%eth0]:1"'),
        ("agent.metrics_listen", '"127.0.0.1:٣"'),
        ("identity.client_id", '"my-identity"'),
        ("identity.client_id", f'"{UUID}0"'),
        ("vtpm.tcti", '""'),
        ("vtpm.tcti", r'"device:/dev/a\u0000"'),
        ("vtpm.tcg_log", '"binary_bios_measurements"'),
        ("imds.endpoint", '"http://[::x]"'),
        ("limits.request_timeout_seconds", "0.09"),
        ("limits.request_timeout_seconds", "300.1"),
        ("limits.request_timeout_seconds", "9" * 400),
        ("limits.request_timeout_seconds", "10:00:00"),
        ("limits.request_timeout_seconds", '"10"'),
    ],
)
def test_a_value_beyond_the_limit_is_named_with_its_place(
    setting: str, value: str
) -> None:
    (problem,) = problems_of(with_setting(setting, value))
    assert problem.startswith(f"{setting}: ")


SERVING_RANGES = [
    ("connections", 1, 65536),
    ("credential_wait_seconds", 0, 86400),
]


def test_every_bound_of_serving_has_a_range() -> None:
    assert [name for name, _, _ in SERVING_RANGES] == [
        field.name for field in msgspec.structs.fields(ServingConfig)
    ]


@pytest.mark.parametrize(("name", "least", "most"), SERVING_RANGES)
def test_a_bound_of_serving_may_be_at_both_ends_of_its_range(
    name: str, least: int, most: int
) -> None:
    for value in (least, most):
        config = parse_config(with_setting(f"serving.{name}", str(value)))
        assert getattr(config.serving, name) == value


@pytest.mark.parametrize(("name", "least", "most"), SERVING_RANGES)
def test_a_bound_of_serving_beyond_its_range_is_told_the_range(
    name: str, least: int, most: int
) -> None:
    said = [f"serving.{name}: must be from {least} to {most}"]
    assert problems_of(with_setting(f"serving.{name}", str(least - 1))) == said
    assert problems_of(with_setting(f"serving.{name}", str(most + 1))) == said


@pytest.mark.parametrize(
    "vault",
    [
        " https://v.vault.azure.net",
        r"https://v\n.vault.azure.net",
        "https://v.vault.azure.net?",
        "https://v.vault.azure.net#",
        "https://v.vault.azure.net//",
        "https://v.vault.azure.net:",
        "https://v.vault.azure.net:65536",
        "https://@v.vault.azure.net",
        "https://v vault.azure.net",
        "https://v..azure.net",
        f"https://{'v' * 64}.vault.azure.net",
        f"https://{'v.' * 127}net",
    ],
)
def test_an_origin_that_a_library_would_mend_is_refused(vault: str) -> None:
    (problem,) = problems_of(f'[keys.disk]\nvault = "{vault}"')
    assert problem.startswith("keys.disk.vault: ")


def test_one_wrong_type_does_not_hide_what_else_is_wrong_with_its_table() -> None:
    text = KEY + 'version = "x"\nallow = [{ user = 1, group = true }, {}]'
    assert [problem.partition(": ")[0] for problem in problems_of(text)] == [
        "keys.disk.allow[0].group",
        "keys.disk.version",
        "keys.disk.allow[1]",
    ]


def test_a_key_that_cannot_be_read_does_not_count_as_none() -> None:
    assert problems_of("[keys.disk]\nvault = 1\n") == [
        "keys.disk.vault: expected a string, got a whole number"
    ]


def test_a_boolean_is_not_a_uid() -> None:
    (problem,) = problems_of(KEY + "allow = [{ user = true }]")
    assert problem == (
        "keys.disk.allow[0].user: expected a whole number or a string, got true or"
        " false"
    )


def test_the_largest_uid_is_a_uid() -> None:
    text = KEY + f"allow = [{{ user = {2**32 - 2} }}]"
    assert parse_config(text).keys["disk"].allow[0].user == 2**32 - 2


@pytest.mark.parametrize(
    "who", [r'"a\u0000b"', f'"{"u" * 257}"', "9" * 100, f"0x{'f' * 9999}"]
)
def test_a_user_that_no_machine_can_have_is_refused(who: str) -> None:
    (problem,) = problems_of(f"{KEY}allow = [{{ user = {who} }}]")
    assert problem.startswith("keys.disk.allow[0].user: no such user: ")


@pytest.mark.parametrize("text", ["a = " + "9" * 5000, "a = " + "[" * 5000])
def test_other_exceptions_of_the_toml_library_are_syntax_errors(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text)
    assert caught.value.code == "config.syntax"


def test_a_file_of_problems_is_told_in_a_hundred_lines() -> None:
    problems = problems_of("".join(f"x{i} = 1\n" for i in range(5000)) + KEY)
    assert len(problems) == 101
    assert problems[-1] == "and 4900 more problems"


def test_a_file_as_long_as_allowed_is_read() -> None:
    assert parse_config(KEY + "#" * (MAX_CONFIG_BYTES - len(KEY))).keys


LONG = "x" * 5000


@pytest.mark.parametrize(
    "text",
    [
        f"{LONG} = 1\n{KEY}",
        f"[agent]\n{LONG} = 1\n{KEY}",
        f"a = {{ {LONG} = 1, {LONG} = 1 }}",
        f'[agent]\napi_socket = "{LONG}"\n{KEY}',
        f'[keys.disk]\nvault = "{LONG}"',
        f'[keys.disk]\nvault = "https://v"\nname = "{LONG}."',
        f'[keys.{LONG}]\nvault = "https://v"\nname = "n"',
        f'{KEY}allow = [{{ user = "{LONG}" }}]',
    ],
)
def test_a_problem_repeats_only_a_short_piece_of_what_it_is_about(text: str) -> None:
    problems = problems_of(text)
    assert "x" * 8 in problems[0]
    assert not any("x" * MAX_SHOWN in problem for problem in problems)


def test_an_address_with_a_password_is_not_repeated() -> None:
    text = KEY.replace("https://", "https://me:hunter2@")
    assert not any("hunter2" in problem for problem in problems_of(text))


def test_a_name_with_a_line_break_is_shown_on_one_line() -> None:
    text = '[keys."a\\nb"]\nvault = "https://v"\nname = "n"'
    (problem,) = problems_of(text)
    assert problem.startswith("keys.a\\nb: ")
