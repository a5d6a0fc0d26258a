"""The emulator at Azure's own names, addresses and ports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "support" / "real_names.sh"


@pytest.mark.swtpm
@pytest.mark.root
def test_an_agent_with_azures_defaults_finds_everything_by_its_real_name(
    directory: Path,
) -> None:
    outcome = subprocess.run(
        ["unshare", "--net", "--mount", "sh", SCRIPT, sys.executable, directory],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    *log, kid = outcome.stdout.splitlines()
    assert kid.startswith("https://skragent-demo.vault.azure.net/keys/demo/")
    assert any(
        "attested by https://sharedeus2.eus2.attest.azure.net" in line for line in log
    )
