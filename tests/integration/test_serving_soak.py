"""A short soak (tests/bench/soak.py): `make soak` is the long one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from support.deadlines import DEADLINE_SECONDS

SOAK = Path(__file__).resolve().parents[1] / "bench" / "soak.py"


def test_a_soak_finds_no_wrong_key_no_torn_response_and_no_growth() -> None:
    done = subprocess.run(
        [sys.executable, SOAK, "--requests", "60000"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.fullmatch(
        r"soak: ok \(60000 requests, (\d+) rotations, .*\)\n", done.stdout
    )
    assert found, done.stdout
    assert int(found[1]) > 10
