from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from support.agent import BOOTTIME

from skragent.agent import allowance
from skragent.agent.allowance import Spent
from skragent.job import KeyRequest

VAULTS = ("https://a.vault.azure.net", "https://b.vault.azure.net")

pauses = st.sampled_from([0.0, 0.5, 3.0, 9.9, 10.0]) | st.floats(0, 15)
wishes = st.lists(st.sampled_from(VAULTS), max_size=40)


def requests(vaults: list[str]) -> dict[str, KeyRequest]:
    return {
        str(n): KeyRequest(alias=str(n), vault=vault, name=str(n))
        for n, vault in enumerate(vaults)
    }


@given(jobs=st.lists(st.tuples(pauses, pauses, wishes), max_size=12))
def test_no_vault_releases_more_than_ten_in_ten_seconds_wherever_in_their_jobs(
    jobs: list[tuple[float, float, list[str]]],
) -> None:
    boot, spent = BOOTTIME, tuple[Spent, ...]()
    moments: dict[str, list[tuple[float, float]]] = {vault: [] for vault in VAULTS}
    for pause, takes, vaults in jobs:
        keys = requests(vaults)
        began, ended = boot + pause, boot + pause + takes
        chosen = allowance.allowed_keys(keys, keys, spent, boottime=began)
        for alias in chosen:
            moments[keys[alias].vault].append((began, ended))
        asked = [keys[alias] for alias in chosen]
        spent, boot = allowance.spend(spent, asked, ended_at=ended), ended
    for spans in moments.values():
        # The window that begins with a release, the others anywhere in their jobs.
        for _, ended in spans:
            within = [b for b, e in spans if e >= ended and b < ended + 10]
            assert len(within) <= 10


@given(vaults=wishes, later=wishes, pause=pauses)
def test_a_vault_that_opens_releases_then_and_not_before(
    vaults: list[str], later: list[str], pause: float
) -> None:
    first, keys = requests(vaults), requests(later)
    chosen = allowance.allowed_keys(first, first, boottime=BOOTTIME)
    spent = allowance.spend((), [first[a] for a in chosen], ended_at=BOOTTIME)
    boot = BOOTTIME + pause
    opens = allowance.opening(keys, spent, boot)
    for alias in keys:
        now = allowance.allowed_keys([alias], keys, spent, boottime=boot)
        assert bool(now) == (alias not in opens)
    for alias, moment in opens.items():
        assert allowance.allowed_keys([alias], keys, spent, boottime=moment)
        assert moment > boot
