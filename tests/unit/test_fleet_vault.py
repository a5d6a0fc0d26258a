"""The vault of the simulation (bench/fleet_vault.py)."""

from __future__ import annotations

from bench.fleet_vault import (
    DOWN,
    KEY_VAULT,
    KEY_VAULT_COUNTING_ALL,
    THROTTLED,
    Outage,
    Vault,
)


def test_a_vault_releases_ten_keys_in_ten_seconds() -> None:
    vault = Vault(KEY_VAULT)
    answers = [vault.ask(tenth / 10) for tenth in range(12)]
    assert answers == [None] * 10 + [THROTTLED] * 2


def test_ten_seconds_after_the_first_release_one_more_is_allowed() -> None:
    vault = Vault(KEY_VAULT)
    for second in range(10):
        vault.ask(second / 2)
    assert [vault.ask(9.9), vault.ask(10), vault.ask(10.1)] == [
        THROTTLED,
        None,
        THROTTLED,
    ]


def test_refused_requests_do_not_count() -> None:
    vault = Vault(KEY_VAULT)
    for tenth in range(100):
        vault.ask(tenth / 10)
    assert vault.ask(10) is None


def test_if_refused_requests_count_only_a_pause_helps() -> None:
    vault = Vault(KEY_VAULT_COUNTING_ALL)
    for tenth in range(100):
        vault.ask(tenth / 10)
    assert [vault.ask(10), vault.ask(20.1)] == [THROTTLED, None]


def test_an_outage_is_not_throttling() -> None:
    vault = Vault(KEY_VAULT, Outage(5, 10))
    assert [vault.ask(moment) for moment in (4.9, 5, 9.9, 10)] == [
        None,
        DOWN,
        DOWN,
        None,
    ]


def test_the_worst_minute_counts_every_request() -> None:
    vault = Vault(KEY_VAULT)
    for moment in [*range(30), *range(60, 105)]:
        vault.ask(moment)
    assert vault.worst_minute == 45
