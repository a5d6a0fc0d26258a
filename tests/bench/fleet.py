"""Simulate a fleet of VMs that wants its keys; the last line printed is JSON.

    fleet.py [--vms N] [--keys K] [--vaults V] [--seed S]

The agents decide with the product's own functions when they request keys. Vaults
release keys up to their limit (fleet_vault). There are four scenarios:

- cold boot: all VMs boot within a minute;
- rotation: each key has a new version, which agents notice within an hour;
- refresh: the refreshes after the cold boot;
- outage: the same with the vaults down for an hour.

Nothing sleeps, and there is no network.

`ratio_to_bound` is the time of a scenario divided by the shortest time that the limit
allows. A scenario ends if it takes more than 12 times as long and an hour; then the
ratio has the time until then. The last `ratio_to_bound` is the worst of the four
scenarios with the limit that Azure documents today. `_if_refused_count` is for vaults
that count refused requests against their limit, as older copies of that page say.
`_managed_hsm` is for a Managed HSM, which has no published limit: see fleet_vault.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.fleet_run import Fleet, Outcome, World
from bench.fleet_vault import KEY_VAULT, KEY_VAULT_COUNTING_ALL, MANAGED_HSM, Limit

BOOT_SECONDS = 60.0
OUTAGE_SECONDS = 3600.0

# Each limit, and whether all scenarios run with it. If refused requests count, the cold
# boot is the worst scenario. The limit of a Managed HSM is not known.
LIMITS = {
    "key_vault": (KEY_VAULT, True),
    "key_vault_counting_refused": (KEY_VAULT_COUNTING_ALL, False),
    "managed_hsm": (MANAGED_HSM, False),
}

HEADLINES = {
    "ratio_to_bound_managed_hsm": "managed_hsm",
    "ratio_to_bound_if_refused_count": "key_vault_counting_refused",
    "ratio_to_bound": "key_vault",
}


def scenarios(fleet: Fleet, limit: Limit) -> dict[str, Outcome]:
    """Run all scenarios; each of the others begins at the end of the cold boot."""
    world = World(fleet, limit)
    outcomes = {"cold_boot": world.cold_boot(BOOT_SECONDS)}
    restore = world.save_state()
    outcomes["rotation"] = world.rotation()
    restore()
    outcomes["refresh"] = world.refresh()
    restore()
    outcomes["outage"] = world.refresh(OUTAGE_SECONDS)
    return outcomes


def describe(outcome: Outcome) -> dict[str, float | None]:
    """Return an outcome as values for JSON."""
    return {
        **{
            f"until_{percent}_percent_seconds": None if at is None else round(at)
            for percent, at in outcome.until.items()
        },
        "bound_seconds": round(outcome.bound),
        "ratio_to_bound": round(outcome.ratio_to_bound, 3),
        "requests_per_vault": max(vault.asked for vault in outcome.vaults),
        "worst_minute_requests": max(vault.worst_minute for vault in outcome.vaults),
        "refused_per_release": round(outcome.refused_per_release, 1),
        "keys_stale": outcome.was_stale,
        "attestations_per_vm": round(outcome.attestations_per_vm, 2),
    }


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def main() -> None:
    """Run the simulation of the command line."""
    parser = argparse.ArgumentParser(description="Simulate a fleet of VMs.")
    parser.add_argument("--vms", type=_count, default=10_000)
    parser.add_argument("--keys", type=_count, default=1, help="of each VM")
    parser.add_argument("--vaults", type=_count, default=1)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    fleet = Fleet(args.vms, args.keys, args.vaults, args.seed)
    began = time.perf_counter()
    gc.disable()  # there are many objects and no reference cycles
    report: dict[str, object] = {**vars(args)}
    ratios: dict[str, float] = {}
    for name, (limit, runs_all) in LIMITS.items():
        if runs_all:
            outcomes = scenarios(fleet, limit)
        else:
            outcomes = {"cold_boot": World(fleet, limit).cold_boot(BOOT_SECONDS)}
        ratios[name] = max(one.ratio_to_bound for one in outcomes.values())
        report[name] = {
            "ratio_to_bound": round(ratios[name], 3),
            **{key: describe(one) for key, one in outcomes.items()},
        }
        for key, one in outcomes.items():
            print(name, key, describe(one), flush=True)
    for name, of in HEADLINES.items():
        report[name] = round(ratios[of], 3)
    report["took_seconds"] = round(time.perf_counter() - began, 1)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
