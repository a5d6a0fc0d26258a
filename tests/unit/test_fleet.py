"""A small fleet (bench/fleet.py): each agent gets its key without a storm."""

from __future__ import annotations

import pytest
from bench.fleet import BOOT_SECONDS, scenarios
from bench.fleet_run import Fleet, Outcome, World
from bench.fleet_vault import KEY_VAULT, KEY_VAULT_COUNTING_ALL

VMS = 300
NAMES = ("cold_boot", "rotation", "refresh", "outage")


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    return scenarios(Fleet(VMS), KEY_VAULT)


@pytest.fixture(scope="module")
def strict() -> dict[str, Outcome]:
    return scenarios(Fleet(VMS // 3), KEY_VAULT_COUNTING_ALL)


@pytest.mark.parametrize("name", NAMES)
def test_every_agent_gets_its_key_soon_after_the_limit_allows_it(
    outcomes: dict[str, Outcome], name: str
) -> None:
    assert 1 <= outcomes[name].ratio_to_bound < 1.25


@pytest.mark.parametrize("name", NAMES)
def test_refusals_stay_bounded(outcomes: dict[str, Outcome], name: str) -> None:
    assert outcomes[name].refused_per_release < 10


def test_a_cold_boot_has_refusals(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["cold_boot"].refused_per_release > 1


def test_refusals_grow_far_less_than_the_fleet(outcomes: dict[str, Outcome]) -> None:
    larger = World(Fleet(3 * VMS), KEY_VAULT).cold_boot(BOOT_SECONDS)
    assert larger.refused_per_release < 2.5 * outcomes["cold_boot"].refused_per_release


@pytest.mark.parametrize("name", NAMES)
def test_a_vault_that_counts_refused_requests_releases_all_keys_in_the_end(
    strict: dict[str, Outcome], name: str
) -> None:
    assert strict[name].until[100] is not None


def test_a_scenario_that_reaches_its_limit_reports_the_limit() -> None:
    never: dict[int, float | None] = {50: 90.0, 99: None, 100: None}
    outcome = Outcome(*(never, 300.0, 100.0, []), was_stale=0, attestations_per_vm=1.0)
    assert outcome.ratio_to_bound == 3


def test_99_percent_of_two_keys_are_both() -> None:
    until = World(Fleet(2), KEY_VAULT).cold_boot(BOOT_SECONDS).until
    assert until[99] == until[100] != until[50]


def test_keys_in_several_vaults_are_held_sooner(outcomes: dict[str, Outcome]) -> None:
    shared = World(Fleet(VMS, vaults=3), KEY_VAULT).cold_boot(BOOT_SECONDS)
    assert shared.bound < outcomes["cold_boot"].bound / 2
    assert shared.ratio_to_bound < 1.3


def test_an_agent_that_waits_for_its_vault_attests_once() -> None:
    outcome = World(Fleet(200), KEY_VAULT).cold_boot(60)
    assert outcome.refused_per_release > 3
    assert outcome.attestations_per_vm == 1
