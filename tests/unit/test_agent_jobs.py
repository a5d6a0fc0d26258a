from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from support.agent import failure, make_config

from skragent.agent import key_records
from skragent.agent.jobs import (
    MAX_MESSAGE_CHARACTERS,
    failure_error,
    is_same_key,
    key_requests,
    releaser_environment,
    vault_origin,
)
from skragent.agent.key_records import KeyLifetimePolicy, KeyRecord
from skragent.agent.releaser_log import log_lines, redact
from skragent.agent.releaser_process import find_tcg_log
from skragent.config import parse_config
from skragent.errors import Disposition
from skragent.job import Failure, KeyRequest
from skragent.keyring import KeyState

if TYPE_CHECKING:
    from pathlib import Path

DEFAULT_LOG = "/sys/kernel/security/tpm0/binary_bios_measurements"


def test_a_failure_comes_back_as_the_error_that_it_was() -> None:
    error = failure_error(failure("transport.throttled", "retry", retry_after=7))
    assert error.code == "transport.throttled"
    assert error.disposition is Disposition.RETRY
    assert error.retry_after == 7


def test_a_long_message_is_cut() -> None:
    raw = Failure(code="x", disposition="retry", message="m" * 99999)
    assert len(failure_error(raw).message) == MAX_MESSAGE_CHARACTERS


def test_a_message_cannot_forge_another_line() -> None:
    raw = Failure(
        code="x", disposition="retry", message="a\nb\x1b[2J\u2028c", hint="\0"
    )
    error = failure_error(raw)
    assert (error.message, error.hint) == ("a b [2J c", " ")


@pytest.mark.parametrize("code", ["x\nMAINPID=1", "", "x" * 65, "no such code"])
def test_a_code_that_is_none_is_not_passed_on(code: str) -> None:
    raw = Failure(code=code, disposition="denied", message="m")
    assert failure_error(raw).code == "releaser.garbage"


def test_the_releaser_cannot_make_a_denial_of_another_code() -> None:
    raw = Failure(code="transport.unexpected", disposition="denied", message="m")
    assert failure_error(raw).disposition is Disposition.RETRY_SLOWLY


def test_the_code_alone_makes_a_denial() -> None:
    raw = Failure(code="release.denied.policy", disposition="retry", message="m")
    assert failure_error(raw).disposition is Disposition.DENIED


def test_a_key_without_a_vault_name_is_requested_by_its_own() -> None:
    assert key_requests(make_config("disk"))["disk"].name == "disk"


def test_a_secret_in_our_environment_stays_with_us() -> None:
    kept = releaser_environment({"AZURE_CLIENT_SECRET": "s", "PATH": "/bin"})
    assert kept == {"PATH": "/bin"}


def test_the_tcg_log_is_read_from_the_credential(tmp_path: Path) -> None:
    (tmp_path / "tcglog").write_bytes(b"\0" * 100)
    found = find_tcg_log(DEFAULT_LOG, str(tmp_path))
    assert found == str(tmp_path / "tcglog")


def test_a_machine_without_a_tcg_log_sends_none(tmp_path: Path) -> None:
    (tmp_path / "tcglog").write_bytes(b"none")
    found = find_tcg_log(DEFAULT_LOG, str(tmp_path))
    assert found == ""


def test_without_a_credential_the_tcg_log_is_the_kernels(tmp_path: Path) -> None:
    found = find_tcg_log(DEFAULT_LOG, str(tmp_path))
    assert found == DEFAULT_LOG


def test_a_configured_tcg_log_wins_over_the_credential(tmp_path: Path) -> None:
    (tmp_path / "tcglog").write_bytes(b"\0" * 100)
    found = find_tcg_log("/log", str(tmp_path))
    assert found == "/log"


@pytest.mark.parametrize(
    "secret",
    [
        "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJ4In0.c2ln",
        "0123456789abcdef" * 3,
        "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj",
        "uKjZ_2-9" * 6,
    ],
)
def test_what_looks_like_a_secret_is_masked(secret: str) -> None:
    line = redact(f"value='{secret}' here")
    assert secret[:12] not in line
    assert secret[-12:] not in line
    assert line.endswith("' here")


def test_prose_is_not_masked() -> None:
    prose = "release.denied: the vault said no (HTTP 403), see the policy"
    assert redact(prose) == prose


def test_the_place_in_a_traceback_is_kept() -> None:
    place = '  File "/usr/lib/python3/site-packages/azure/core/retry.py", line 5, in f'
    assert log_lines(place.encode()) == [place]


def test_a_line_cannot_forge_another() -> None:
    assert log_lines(b"a\x1b[2Jb\rc\n\n") == ["a?[2Jb", "c"]


def test_bytes_that_are_not_text_are_logged() -> None:
    assert log_lines(b"\xff\xfe ok") == ["?? ok"]


def test_a_tcg_log_credential_that_is_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "tcglog")
    assert find_tcg_log(DEFAULT_LOG, str(tmp_path)) == DEFAULT_LOG


VAULT = "https://v.vault.azure.net"


def request(vault: str = VAULT, name: str = "db") -> KeyRequest:
    text = f'[keys.db]\nvault = "{vault}"\nname = "{name}"\n'
    return key_requests(parse_config(text))["db"]


def is_held_after_reload(after: KeyRequest) -> bool:
    held = KeyRecord(
        state=KeyState.CURRENT, stale_at=1e6, drop_at=2e6, version="0" * 32
    )
    life = key_records.reconfigure(
        held, request(), after, policy=KeyLifetimePolicy(), boottime=0.0
    )
    return life.is_held


@pytest.mark.parametrize(
    "vault",
    [
        "https://v.vault.azure.net/",
        "https://V.Vault.Azure.NET",
        "https://v.vault.azure.net:443",
        "https://v.vault.azure.net:0443/",
    ],
)
def test_another_spelling_of_the_vault_requests_the_same_key(vault: str) -> None:
    assert request(vault) == request()
    assert is_held_after_reload(request(vault))


def test_another_letter_case_of_the_name_keeps_what_is_held() -> None:
    assert is_held_after_reload(request(name="DB"))


@pytest.mark.parametrize(
    "other",
    [
        request("https://w.vault.azure.net"),
        request("https://v.vault.azure.net:444"),
        request(name="db2"),
    ],
)
def test_another_vault_port_or_name_is_another_key(other: KeyRequest) -> None:
    assert not is_same_key(request(), other)
    assert not is_held_after_reload(other)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://[2001:DB8::1]", "https://[2001:db8::1]"),
        ("https://[2001:db8::443]", "https://[2001:db8::443]"),
        ("https://[2001:db8::1]:443/", "https://[2001:db8::1]"),
        ("https://localhost:8443/", "https://localhost:8443"),
    ],
)
def test_an_address_and_another_port_stay(url: str, origin: str) -> None:
    assert vault_origin(url) == origin
