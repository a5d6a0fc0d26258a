"""What vaults still release, and whom a job is for because of it."""

from __future__ import annotations

from support.agent import BOOTTIME

from skragent.agent import allowance
from skragent.agent.allowance import RELEASES, WINDOW_SECONDS
from skragent.job import KeyRequest

VAULT = "https://v.vault.azure.net"
OTHER = "https://other.vault.azure.net"


def keys(count: int, vault: str = VAULT) -> dict[str, KeyRequest]:
    names = [f"{vault[8]}{number}" for number in range(count)]
    return {name: KeyRequest(alias=name, vault=vault, name=name) for name in names}


def test_a_vault_is_asked_for_ten_keys_at_once() -> None:
    found = allowance.allowed_keys(keys(11), keys(11), boottime=BOOTTIME)
    assert found == tuple(keys(10))


def test_each_vault_has_its_own_ten() -> None:
    both = keys(10) | keys(10, OTHER)
    assert len(allowance.allowed_keys(both, both, boottime=BOOTTIME)) == 20


def test_what_a_job_asked_for_counts_until_ten_seconds_after_its_end() -> None:
    spent = allowance.spend((), keys(10).values(), ended_at=BOOTTIME)
    late = BOOTTIME + WINDOW_SECONDS
    early = allowance.allowed_keys(keys(1), keys(1), spent, boottime=late - 0.1)
    assert early == ()
    assert allowance.allowed_keys(keys(1), keys(1), spent, boottime=late) == ("v0",)


def test_what_is_left_is_for_others() -> None:
    spent = allowance.spend((), keys(7).values(), ended_at=BOOTTIME)
    found = allowance.allowed_keys(keys(10), keys(10), spent, boottime=BOOTTIME)
    assert len(found) == RELEASES - 7


def test_a_vault_opens_when_the_first_of_its_releases_counts_no_more() -> None:
    spent = allowance.spend((), keys(5).values(), ended_at=BOOTTIME)
    spent = allowance.spend(spent, keys(5).values(), ended_at=BOOTTIME + 4)
    both = keys(1) | keys(1, OTHER)
    opens = allowance.opening(both, spent, BOOTTIME + 5)
    assert opens == {"v0": BOOTTIME + WINDOW_SECONDS}


def test_a_vault_with_something_left_is_open() -> None:
    spent = allowance.spend((), keys(9).values(), ended_at=BOOTTIME)
    assert allowance.opening(keys(1), spent, BOOTTIME) == {}


def test_what_counts_no_more_is_forgotten() -> None:
    spent = allowance.spend((), keys(9).values(), ended_at=BOOTTIME)
    spent = allowance.spend(spent, keys(1).values(), ended_at=BOOTTIME + 60)
    assert [one.releases for one in spent] == [1]
