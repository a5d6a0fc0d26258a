"""What stands beside the service: the target, users, directories and examples."""

from __future__ import annotations

import configparser
import shutil
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest
from support.commands import parser_of
from support.units import UNITS, lay_out, verify

from skragent.config import parse_config
from skragent.serving.credential_protocol import parse_credential

EXAMPLES = UNITS / "examples"
# Where each example goes.
PLACES = {
    "proxy.conf": "skragent.service.d",
    "addresses.conf": "skragent.service.d",
    "all-keys-first.conf": "web.service.d",
    "web.service": "",
}


def read(path: Path) -> configparser.ConfigParser:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign] # names as they are
    unit.read(path)
    return unit


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name} (Debian: systemd)")
    return found


def test_the_target_is_reached_when_the_service_has_seen_all_keys() -> None:
    target = read(UNITS / "skragent-online.target")["Unit"]
    assert target["Requires"] == target["After"] == "skragent-online.service"
    service = read(UNITS / "skragent-online.service")
    assert service["Service"]["Type"] == "oneshot"
    assert service["Service"]["RemainAfterExit"] == "yes"
    assert service["Unit"]["Requires"] == "skragent-admin.socket"
    command, *words = service["Service"]["ExecStart"].split()
    assert command == "/usr/bin/skragent"
    asked = parser_of("", words).parse_args(words)
    assert (words[0], asked.all, asked.socket) == ("wait", True, None)
    assert "User" not in service["Service"], "admin.sock is root's"


@pytest.mark.systemd_analyze
def test_systemd_finds_no_fault_in_the_examples(tmp_path: Path) -> None:
    units = lay_out(tmp_path)
    for name, place in PLACES.items():
        (units / place).mkdir(exist_ok=True)
        shutil.copy(EXAMPLES / name, units / place)
    outcome = verify(tmp_path, ["skragent.service", "web.service"])
    assert (outcome.returncode, outcome.stderr) == (0, "")


def test_every_example_has_its_place() -> None:
    assert {path.name for path in EXAMPLES.iterdir()} == {
        *PLACES,
        "user-assigned-identity.toml",
    }


def test_the_examples_identity_can_be_used() -> None:
    text = (EXAMPLES / "user-assigned-identity.toml").read_text()
    config = parse_config(text)
    assert config.identity.client_id
    assert config.keys["backup"].identity in config.identities


def test_the_examples_credential_is_one_that_the_agent_gives() -> None:
    service = read(EXAMPLES / "web.service")["Service"]
    name, _, path = service["LoadCredential"].partition(":")
    parsed = parse_credential(name)
    assert parsed is not None
    socket = read(UNITS / "skragent-credentials.socket")["Socket"]
    assert path == socket["ListenStream"]
    assert service["ExecStartPre"] == f"/usr/bin/test -s %d/{name}"
    assert service["Type"] == "exec"
    text = (EXAMPLES / "web.service").read_text()
    said = text.partition("#   [keys.")[2].partition("\n[Unit]")[0]
    rule = tomllib.loads("[keys." + said.replace("#   ", ""))
    key = rule["keys"][parsed.alias]
    assert key == {"allow": [{"unit": "web.service"}]}


@pytest.mark.root
def test_the_user_is_made_and_may_use_the_tpm(tmp_path: Path) -> None:
    sysusers = tool("systemd-sysusers")
    (tmp_path / "etc").mkdir()
    text = (UNITS / "sysusers.d" / "skragent.conf").read_text()
    done = subprocess.run(
        [sysusers, f"--root={tmp_path}", "-"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    passwd = (tmp_path / "etc" / "passwd").read_text().splitlines()
    assert [line.split(":")[0] for line in passwd] == ["skragent"]
    assert passwd[0].endswith(":/usr/sbin/nologin")
    groups = {
        name: members
        for name, _, _, members in (
            line.split(":") for line in (tmp_path / "etc/group").read_text().split()
        )
    }
    assert groups == {"skragent": "", "tss": "skragent"}
    service = read(UNITS / "skragent.service")["Service"]
    assert (service["User"], service["Group"]) == ("skragent", "skragent")
    assert "SupplementaryGroups" not in service, "tss is the user's already"


@pytest.mark.root
def test_the_directories_are_roots_but_for_the_agents_own(tmp_path: Path) -> None:
    tmpfiles = tool("systemd-tmpfiles")
    for name in ("etc", "run"):
        (tmp_path / name).mkdir()
    users = "root:x:0:0::/:/bin/sh\nskragent:x:4322:4321::/:/bin/sh\n"
    (tmp_path / "etc" / "passwd").write_text(users)
    (tmp_path / "etc" / "group").write_text("root:x:0:\nskragent:x:4321:\n")
    done = subprocess.run(
        [tmpfiles, "--create", f"--root={tmp_path}", "-"],
        input=(UNITS / "tmpfiles.d" / "skragent.conf").read_text(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name, mode, user, group in (
        ("run", 0o755, 0, 0),
        ("etc", 0o750, 0, 4321),
        ("var/lib", 0o700, 4322, 4321),
    ):
        made = (tmp_path / name / "skragent").stat()
        assert stat.S_IMODE(made.st_mode) == mode
        assert (made.st_uid, made.st_gid) == (user, group)
