"""The emulator with Azure's names, addresses and ports."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
from support.deadlines import DEADLINE_SECONDS

SCRIPT = Path(__file__).resolve().parents[1] / "support" / "real_names.sh"


@pytest.mark.swtpm
@pytest.mark.root
def test_agents_with_default_endpoints_find_all_services_by_their_real_names(
    directory: Path,
) -> None:
    outcome = subprocess.run(
        [
            *("unshare", "--net", "--mount", "sh", SCRIPT),
            *(sys.executable, directory, str(DEADLINE_SECONDS)),
        ],
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE_SECONDS,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert processes_about(directory) == []  # no process is left
    *log, vms, applications, audience = outcome.stdout.splitlines()
    assert vms.startswith("https://skragent-demo.vault.azure.net/keys/demo/")
    assert applications == vms
    assert audience == "https://vault.azure.net"
    verifier = "attested by https://sharedeus2.eus2.attest.azure.net"
    assert len([line for line in log if verifier in line]) == 2


def processes_about(directory: Path) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended in the meantime
            found.append(path.read_bytes().replace(b"\0", b" ").decode())
    return [command for command in found if str(directory) in command]
