"""The AppArmor profile parses and agrees with the unit, the code and the package.

tests/vm shows with an enforcing kernel that the agent works under the profile.
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
    """Return the paths that the profile itself allows, with their permissions."""
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
def test_the_parser_accepts_the_profile(apparmor_parser: list[str]) -> None:
    outcome = parse(apparmor_parser, PROFILE)
    assert outcome.returncode == 0, outcome.stderr
    assert "rror" not in outcome.stderr


@pytest.mark.apparmor
def test_the_parser_rejects_a_syntax_error(
    apparmor_parser: list[str], tmp_path: Path
) -> None:
    broken = tmp_path / "skragent"
    broken.write_text(PROFILE.read_text().replace("/dev/tpmrm0 rw,", "/dev/tpmrm0 rw"))
    assert parse(apparmor_parser, broken).returncode != 0


def test_the_unit_uses_the_profile_if_it_is_loaded() -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.read(UNITS / "skragent.service")
    service = unit["Service"]
    assert service["AppArmorProfile"] == "-skragent"
    assert "\nprofile skragent " in PROFILE.read_text()
    for command in ("/usr/bin/env", "/usr/bin/skragent", "/usr/bin/python3.11"):
        assert "x" in allowed(command)
    name = service["LoadCredential"].partition(":")[0]
    assert allowed(f"/run/credentials/skragent.service/{name}") == "r"


def test_the_profile_allows_the_default_paths_of_the_configuration() -> None:
    assert allowed(VtpmConfig().tcti.removeprefix("device:")) == "rw"
    agent = AgentConfig()
    for path in (agent.api_socket, agent.credentials_socket, agent.admin_socket):
        assert allowed(path) == "rw"
    assert allowed("/run/systemd/notify") == "w"


def test_the_profile_allows_the_files_of_an_ak_certificate_renewal() -> None:
    path = AkCopies("/var/lib/skragent").path
    assert allowed(str(path)) == "rw"
    assert allowed(str(path.with_suffix(".new"))) == "rw"
    assert "r" in allowed("/var/lib/skragent/")  # the directory is synced, too


def test_the_profile_allows_no_other_program_and_no_other_written_file() -> None:
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
