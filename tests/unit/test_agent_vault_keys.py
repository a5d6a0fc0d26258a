"""Another spelling of a vault or of a key's name is still the same key."""

from __future__ import annotations

import pytest

from skragent.agent import lifecycle
from skragent.agent.jobs import key_requests
from skragent.agent.lifecycle import KeyRecord, Terms
from skragent.agent.vault_keys import is_same_key, vault_origin
from skragent.config import parse_config
from skragent.job import KeyRequest
from skragent.keyring import KeyState

VAULT = "https://v.vault.azure.net"


def request(vault: str = VAULT, name: str = "db") -> KeyRequest:
    text = f'[keys.db]\nvault = "{vault}"\nname = "{name}"\n'
    return key_requests(parse_config(text))["db"]


def is_held_after_reload(after: KeyRequest) -> bool:
    held = KeyRecord(
        state=KeyState.CURRENT, stale_at=1e6, drop_at=2e6, version="0" * 32
    )
    life = lifecycle.reconfigured(held, request(), after, terms=Terms(), boottime=0.0)
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
def test_another_spelling_of_the_vault_asks_for_the_same_key(vault: str) -> None:
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
