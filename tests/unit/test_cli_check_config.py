from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from skragent import exit_codes
from skragent.cli import check_config
from skragent.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

KEY = f"""
[vtpm]
tcti = "swtpm:path=/nowhere"
[keys.disk]
vault = "https://v.vault.azure.net"
allow = [{{ user = {os.getuid()} }}]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "skragent.toml"


def problems(capsys: pytest.CaptureFixture[str]) -> list[str]:
    lines = capsys.readouterr().out.splitlines()
    return [line for line in lines if not line.startswith("warning: ")]


def check(config: Path, text: str) -> int:
    config.write_text(text)
    return main(["check-config", "--config", str(config)])


def test_a_good_configuration_is_ok(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(config, KEY) == exit_codes.OK
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "ok: 1 key: disk"
    assert all(line.startswith("warning: ") for line in said[:-1])


def test_every_problem_is_printed_with_its_place(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = '[agent]\napi_socket = "s"\n' + KEY.replace("https", "http")
    assert check(config, text) == exit_codes.CONFIG
    assert [line.partition(":")[0] for line in problems(capsys)] == [
        "agent.api_socket",
        "keys.disk.vault",
    ]


def test_users_that_this_machine_does_not_know_and_files_that_are_not_there(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = '[trust]\ntls_roots = "/nowhere.pem"\n' + KEY.replace(
        str(os.getuid()), '"no-such-user"'
    )
    assert check(config, text) == exit_codes.CONFIG
    said = capsys.readouterr().out
    assert "trust.tls_roots: /nowhere.pem: " in said
    assert "keys.disk.allow[0].user: " in said


def test_a_file_without_a_certificate_is_a_problem(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ca.pem").write_text("hello")
    text = f'[trust]\nrelease_roots = "{tmp_path}/ca.pem"\n' + KEY
    assert check(config, text) == exit_codes.CONFIG
    assert "trust.release_roots: " in capsys.readouterr().out


def test_a_missing_tpm_and_a_key_without_rules_are_warnings(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = KEY.replace("swtpm:path=", "device:").replace("allow", "# allow")
    assert check(config, text) == exit_codes.OK
    said = capsys.readouterr().out
    assert "warning: vtpm.tcti: /nowhere" in said
    assert "warning: keys.disk.allow" in said
    assert said.endswith("ok: 1 key: disk\n")


def test_a_file_that_is_not_text_is_a_problem(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_bytes(b"\xff")
    assert main(["check-config", "--config", str(config)]) == exit_codes.CONFIG
    assert "not UTF-8" in capsys.readouterr().out


def test_settings_and_names_are_told_in_one_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "skragent.toml"
    file.write_text(
        "[serving]\nconnections = 0\n"
        '[keys.db]\nvault = "https://v.vault.azure.net"\n'
        'allow = [{ user = "no-such-user" }, { unit = "web" }]\n'
    )
    assert main(["check-config", "--config", str(file)]) == exit_codes.CONFIG
    places = [line.partition(": ")[0] for line in problems(capsys)]
    assert places == [
        "serving.connections",
        "keys.db.allow[1].unit",
        "keys.db.allow[0].user",
    ]


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ('[agent]\napi_socket = "/nowhere/s"', "agent.api_socket: /nowhere"),
        ('[agent]\nadmin_socket = "/etc/passwd"', "agent.admin_socket: /etc/passwd"),
        ('[keys.a]\nvault = "https://v.vault.azure.net"', "keys.a.allow: empty"),
    ],
)
def test_what_may_be_meant_so_is_a_warning(
    config: Path, capsys: pytest.CaptureFixture[str], text: str, warning: str
) -> None:
    assert check(config, f"{KEY}\n{text}") == exit_codes.OK
    said = capsys.readouterr().out
    assert any(line.startswith(f"warning: {warning}") for line in said.splitlines())


def test_a_rule_for_every_unit_is_a_warning(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        check(config, KEY.replace(f"user = {os.getuid()}", 'unit = "*"'))
        == exit_codes.OK
    )
    assert "keys.disk.allow[0].unit: `*` matches every unit" in capsys.readouterr().out


def test_a_user_that_does_not_exist_is_told_where_settings_are_missing_as_well(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = KEY.replace('vault = "https://v.vault.azure.net"', "")
    text = text.replace(str(os.getuid()), '"no-such-user"')
    assert check(config, text) == exit_codes.CONFIG
    said = capsys.readouterr().out
    assert "keys.disk.vault: missing" in said
    assert "keys.disk.allow[0].user: " in said


@pytest.mark.parametrize("setting", [False, True])
def test_a_rule_on_a_unit_that_this_kernel_cannot_pin_is_a_warning_where_it_is_ignored(
    config: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    setting: bool,
) -> None:
    monkeypatch.setattr(check_config, "probe_pidfd", lambda: False)
    text = KEY.replace(f"user = {os.getuid()}", 'unit = "web.service"')
    text += f"[agent]\nunit_rules_without_pidfd = {str(setting).lower()}\n"
    assert check(config, text) == exit_codes.OK
    said = capsys.readouterr().out
    warning = "warning: keys.disk.allow[0].unit: this kernel has no peer pidfds"
    assert (warning in said) is not setting


def test_a_fifo_is_refused_without_waiting_for_a_writer(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(config)
    assert main(["check-config", "--config", str(config)]) == exit_codes.CONFIG
    said = capsys.readouterr().out
    assert said == f"{config}: this is a FIFO, not a regular file\n"


def test_a_fifo_whose_writer_writes_nothing_is_refused(config: Path) -> None:
    os.mkfifo(config)
    writer = os.open(config, os.O_RDWR)
    try:
        assert main(["check-config", "--config", str(config)]) == exit_codes.CONFIG
    finally:
        os.close(writer)


def test_a_vault_in_no_cloud_is_a_warning_that_says_what_to_write(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(config, KEY.replace("azure.net", "azure.ne")) == exit_codes.OK
    (warning,) = [
        line for line in capsys.readouterr().out.splitlines() if "keys.disk." in line
    ]
    assert warning == (
        "warning: keys.disk.vault: no cloud of Azure has vaults under"
        " `vault.azure.ne`: write https://v.vault.azure.net"
    )


def test_the_remedy_for_a_vault_in_an_id_is_a_whole_id(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = KEY.replace("vault =", "id =").replace("azure.net", "azure.ne/keys/db")
    assert check(config, text) == exit_codes.OK
    assert "write https://v.vault.azure.net/keys/db\n" in capsys.readouterr().out


def test_problems_and_warnings_are_printed_in_one_run(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = KEY.replace("allow", "on_denial = 'x'\n# allow")
    assert check(config, text) == exit_codes.CONFIG
    said = capsys.readouterr().out.splitlines()
    assert any(line.startswith("keys.disk.on_denial: ") for line in said)
    assert "warning: keys.disk.allow: empty: no caller may use this key" in said


@pytest.mark.parametrize(
    "text",
    [
        'cloud = "x"\n',
        '[agent]\napi_socket = "/a\\u0000b"\n',
        '[vtpm]\ntcti = "device:/a\\u0000b"\n[keys."\\u001b[2J"]\n',
        '[keys.a]\nallow = [{ unit = "\\u0000" }, { unit = "" }]\n',
        '[keys.a]\nid = "x"\nvault = "y"\n',
    ],
)
def test_warnings_of_a_configuration_with_problems_are_printable(
    config: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    rest = "" if "[vtpm]" in text else KEY
    assert check(config, text + rest) == exit_codes.CONFIG
    said = capsys.readouterr().out
    assert said.replace("\n", "").isprintable()


LONG = "u" * 73  # with `.service` and `disk`: 85
NAMES_FIT = 83


def unit_warnings(
    config: Path, capsys: pytest.CaptureFixture[str], rule: str, settings: str = ""
) -> list[str]:
    text = settings + KEY.replace("allow = [", f"allow = [{{ {rule} }}, ")
    assert check(config, text) == exit_codes.OK
    said = capsys.readouterr().out.splitlines()
    return [line for line in said if "LoadCredential=" in line]


@pytest.mark.parametrize(
    "unit", [f"{LONG}.service", f"{LONG[1:]}@.service", f"{LONG}?*.service"]
)
def test_a_units_name_that_is_too_long_for_load_credential_is_a_warning(
    config: Path, capsys: pytest.CaptureFixture[str], unit: str
) -> None:
    (warning,) = unit_warnings(config, capsys, f'unit = "{unit}"')
    assert warning.startswith("warning: keys.disk.allow[0].unit: the name")
    assert "works up to 83: shorten one of them" in warning


def test_a_units_name_without_space_for_a_form_is_a_warning(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unit = "u" * (NAMES_FIT - len("disk.service"))
    (warning,) = unit_warnings(config, capsys, f'unit = "{unit}.service"')
    assert "write LoadCredential=disk:" in warning


@pytest.mark.parametrize(
    ("rule", "settings"),
    [
        (f'unit = "{"u" * (NAMES_FIT - 16)}.service"', ""),
        (f'unit = "{LONG}.service", user = 0', ""),
        (f'unit = "{LONG}.service", operations = ["public"]', ""),
        (f'unit = "{LONG}.service"', 'agent.credentials_socket = ""\n'),
        ('unit = "*"', ""),
    ],
)
def test_other_units_names_give_no_warning_of_load_credential(
    config: Path, capsys: pytest.CaptureFixture[str], rule: str, settings: str
) -> None:
    assert unit_warnings(config, capsys, rule, settings) == []
