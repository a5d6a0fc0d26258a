"""A short run of tests/bench/chaos.py; `make chaos` runs longer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.deadlines import DEADLINE_SECONDS

pytestmark = pytest.mark.swtpm

CHAOS = Path(__file__).resolve().parents[1] / "bench" / "chaos.py"


def test_clients_get_right_responses_during_random_faults_and_keys_recover() -> None:
    done = subprocess.run(
        [
            *(sys.executable, CHAOS, "--seconds", "20", "--seed", "7"),
            *("--deadline", str(DEADLINE_SECONDS)),
        ],
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "chaos: ok"
