"""The AppArmor profile: its parser takes it, and it agrees with unit, code and package.

That it lets all of the agent work, and nothing else, needs a kernel that enforces it.
"""

from __future__ import annotations

import configparser
import fnmatch
import re
import subprocess
from pathlib import Path

import pytest
from support.units import UNITS

from skragent.config import AgentConfig, VtpmConfig
from skragent.releaser.ak_copies import AkCopies

ROOT = Path(__file__).resolve().parents[2]
PROFILE = ROOT / "packaging" / "apparmor" / "skragent"


def parse(parser: list[str], profile: Path) -> subprocess.CompletedProcess[str]:
    quick = ("--skip-kernel-load", "--skip-cache")
    return subprocess.run(
        [*parser, *quick, profile], capture_output=True, text=True, check=False
    )


def rules() -> dict[str, str]:
    """What the profile itself allows: paths, and what with them."""
    found = re.findall(r"(?m)^  ([/@]\S+) +([a-z]+),$", PROFILE.read_text())
    return {path.replace("@{run}", "/run"): letters for path, letters in found}


def allowed(path: str) -> str:
    return "".join(
        sorted(
            {
                letter
                for pattern, letters in rules().items()
                if fnmatch.fnmatchcase(path, pattern.replace("{usr/,}", "usr/"))
                for letter in letters
            }
        )
    )


@pytest.mark.apparmor
def test_the_parser_takes_it(apparmor_parser: list[str]) -> None:
    outcome = parse(apparmor_parser, PROFILE)
    assert outcome.returncode == 0, outcome.stderr
    assert "rror" not in outcome.stderr


@pytest.mark.apparmor
def test_the_parser_would_find_a_fault(
    apparmor_parser: list[str], tmp_path: Path
) -> None:
    broken = tmp_path / "skragent"
    broken.write_text(PROFILE.read_text().replace("/dev/tpmrm0 rw,", "/dev/tpmrm0 rw"))
    assert parse(apparmor_parser, broken).returncode != 0


def test_the_unit_asks_for_it_where_there_is_one() -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.read(UNITS / "skragent.service")
    service = unit["Service"]
    assert service["AppArmorProfile"] == "-skragent"
    assert "\nprofile skragent " in PROFILE.read_text()
    for command in ("/usr/bin/env", "/usr/bin/skragent", "/usr/bin/python3.11"):
        assert "x" in allowed(command)
    name = service["LoadCredential"].partition(":")[0]
    assert allowed(f"/run/credentials/skragent.service/{name}") == "r"


def test_it_allows_what_the_configuration_has_by_default() -> None:
    assert allowed(VtpmConfig().tcti.removeprefix("device:")) == "rw"
    agent = AgentConfig()
    for path in (agent.api_socket, agent.credentials_socket, agent.admin_socket):
        assert allowed(path) == "rw"
    assert allowed("/run/systemd/notify") == "w"


def test_it_allows_what_a_renewal_of_the_ak_certificate_writes() -> None:
    path = AkCopies("/var/lib/skragent").path
    assert allowed(str(path)) == "rw"
    assert allowed(str(path.with_suffix(".new"))) == "rw"
    assert "r" in allowed("/var/lib/skragent/")  # which is made durable with them


def test_it_allows_no_other_program_and_no_other_file_to_be_written() -> None:
    programs = [path for path, letters in rules().items() if "x" in letters]
    assert programs == [
        "/{usr/,}bin/env",
        "/usr/lib/cargo/bin/coreutils/env",
        "/usr/bin/skragent",
        "/{usr/,}bin/python3*",
    ]
    written = [path for path, letters in rules().items() if {*letters} & {*"wakl"}]
    assert written == [
        "/var/lib/skragent/ak-certificate.pem",
        "/var/lib/skragent/ak-certificate.new",
        "/run/systemd/resolve/io.systemd.Resolve",
        "/dev/tpmrm0",
        "/run/skragent/*.sock",
        "/run/systemd/notify",
    ]
