"""Installation, use, upgrade, removal and purge of the packages in a Debian chroot."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from support.chroot import Chroot
from support.packages import Built

pytestmark = [
    pytest.mark.packages,
    pytest.mark.root,
    pytest.mark.swtpm,
    pytest.mark.timeout(900),
]

SOCKETS = "skragent.socket skragent-credentials.socket skragent-admin.socket"
CONFIG = "/etc/skragent/skragent.toml"
PROFILE = "/etc/apparmor.d/skragent"
ONE_KEY = (
    '\n[keys.mine]\nvault = "https://mine.vault.azure.net"\nallow = [{ user = 0 }]\n'
)


def test_the_installed_agent_and_emulator_run(debian: Chroot, deb: Built) -> None:
    output = debian.install(deb.file("skragent"))
    assert "skragent check-config" in output  # the next step
    assert debian.must("skragent", "--version").strip() == "0.2.0"
    missing = debian.run("skragent", "demo")
    assert missing.returncode != 0
    assert "skragent-emulator" in missing.stdout
    debian.install(deb.file("skragent-emulator"))
    # The demo starts the agent and releasers: both ways to start a process.
    assert "demo: ok" in debian.must("skragent", "demo")
    files = ("find", "/usr/lib/skragent", "-type", "f")
    assert (
        debian.must(*files, "-newer", "/usr/bin/skragent") == ""
    )  # written by Python after the installation


def test_the_package_creates_its_user_and_only_that_user_reads_the_configuration(
    installed: Chroot,
) -> None:
    assert "skragent" in installed.must("id", "-gn", "skragent")
    assert "tss" in installed.must("id", "-Gn", "skragent").split()
    shown = installed.must("stat", "-c", "%a %U:%G", "/etc/skragent", CONFIG)
    assert shown.split("\n")[0] == "750 root:skragent"
    assert installed.run("runuser", "-u", "nobody", "--", "cat", CONFIG).returncode != 0
    installed.must("runuser", "-u", "skragent", "--", "cat", CONFIG)


def test_the_systems_python_imports_the_client(installed: Chroot) -> None:
    code = "from skragent.client import SkragentClient, AsyncSkragentClient"
    installed.must("/usr/bin/python3", "-I", "-c", code)


def test_the_initial_configuration_has_no_key(
    installed: Chroot,
) -> None:
    refused = installed.run("skragent", "check-config", "--config", CONFIG)
    assert refused.returncode == 78
    problems = [
        line
        for line in refused.stdout.splitlines()
        if not line.startswith("warning: ")  # there is no vTPM here
    ]
    assert problems == ["keys: no key is configured; add a [keys.NAME] table"]
    config = installed.root / CONFIG[1:]
    config.write_text(config.read_text() + ONE_KEY)
    assert "ok: 1 key" in installed.must("skragent", "check-config", "--config", CONFIG)


def test_no_unit_is_started_before_a_key_is_configured(
    debian: Chroot, deb: Built
) -> None:
    debian.pretend_systemd()
    debian.install(deb.file("skragent"))
    assert not [t for t in debian.systemctl_commands() if "start" in t]
    assert not list((debian.root / "etc/systemd/system").rglob("skragent*"))


def test_the_units_start_if_the_configuration_existed_before(
    debian: Chroot, deb: Built
) -> None:
    debian.pretend_systemd()
    config = debian.root / CONFIG[1:]
    config.parent.mkdir()
    config.write_text(ONE_KEY)
    shutil.copy(deb.file("skragent"), debian.root / "root/skragent.deb")
    debian.must("dpkg", "--force-confold", "--install", "/root/skragent.deb")
    assert any(
        "start" in t and "skragent.socket" in t for t in debian.systemctl_commands()
    )
    assert config.read_text() == ONE_KEY
    for wants in (
        "multi-user.target.wants/skragent.service",
        "sockets.target.wants/skragent.socket",
    ):
        assert (debian.root / "etc/systemd/system" / wants).is_symlink()


@pytest.mark.parametrize("is_running", [True, False])
def test_an_upgrade_keeps_the_configuration_and_the_sockets(
    installed: Chroot, newer_deb: Built, *, is_running: bool
) -> None:
    config = installed.root / CONFIG[1:]
    config.write_text(ONE_KEY)
    installed.pretend_systemd()
    if is_running:
        (installed.root / "agent-runs").touch()
    output = installed.install(newer_deb.file("skragent"))
    commands = installed.systemctl_commands()
    assert config.read_text() == ONE_KEY
    assert not [t for t in commands if ".socket" in t and ("start" in t or "stop" in t)]
    restarts = [t for t in commands if "restart" in t]
    assert [t.split()[-1] for t in restarts] == ["skragent.service"] * is_running
    assert not [t for t in commands if "stop" in t]
    assert f"systemctl stop skragent.service {SOCKETS}" in output


def test_an_upgrade_without_changed_sockets_does_not_mention_them(
    installed: Chroot, deb: Built
) -> None:
    installed.pretend_systemd()
    assert "socket" not in installed.install(deb.file("skragent"))


@pytest.mark.parametrize("is_enabled", [True, False])
def test_a_package_that_is_installed_again_starts_only_enabled_units(
    installed: Chroot, deb: Built, *, is_enabled: bool
) -> None:
    (installed.root / CONFIG[1:]).write_text(ONE_KEY)
    installed.pretend_systemd()
    if is_enabled:
        installed.must("systemctl.real", "--root=/", "enable", "skragent.service")
    installed.must("dpkg", "--remove", "skragent")
    installed.systemctl_commands()
    output = installed.install(deb.file("skragent"))
    started = [t for t in installed.systemctl_commands() if re.search(r"\bstart\b", t)]
    units = [f"{SOCKETS} skragent.service"] * is_enabled
    assert [t.partition("start ")[2] for t in started] == units
    assert "changes its sockets" not in output
    wants = "etc/systemd/system/multi-user.target.wants/skragent.service"
    assert (installed.root / wants).is_symlink() == is_enabled
    assert not (installed.root / "etc/systemd/system/skragent.service").exists()


def test_purge_leaves_no_file_and_no_account(debian: Chroot, deb: Built) -> None:
    accounts = ("etc/passwd", "etc/group", "etc/shadow", "etc/gshadow")
    debian.pretend_systemd()
    before = debian.files()
    catalog = debian.root / "var/lib/systemd/catalog/database"
    debian.install(deb.file("skragent"), deb.file("skragent-emulator"))
    (debian.root / "run/skragent").mkdir(exist_ok=True)
    (debian.root / "run/skragent/api.sock").touch()
    (debian.root / "etc/skragent/secret").write_text("s")
    (debian.root / "var/lib/skragent").mkdir(exist_ok=True)
    (debian.root / "var/lib/skragent/ak-certificate.pem").touch()
    (debian.root / "agent-runs").touch()
    compiled = debian.root / "usr/lib/skragent/skragent/client/__pycache__"
    (compiled / "exchange.cpython-399.pyc").touch()  # of another Python version
    assert b"SKRAGENT_" in catalog.read_bytes()
    debian.must("dpkg", "--remove", "skragent-emulator", "skragent")
    commands = debian.systemctl_commands()
    assert any("stop" in t and "skragent.service" in t for t in commands)
    assert (debian.root / CONFIG[1:]).exists()  # removed, not purged
    assert (debian.root / "var/lib/skragent/ak-certificate.pem").exists()
    debian.must("dpkg", "--purge", "skragent-emulator", "skragent")
    left = {p for p in debian.files() - before if not p.startswith("run/systemd")}
    assert left <= {"agent-runs", "systemctl.log", "systemctl.loaded"}
    assert b"SKRAGENT_" not in catalog.read_bytes()
    for file in accounts:
        assert "skragent" not in (debian.root / file).read_text()
    listing = debian.must("dpkg-query", "--list")
    assert "skragent" not in listing


def test_the_apparmor_profile_is_loaded_if_apparmor_is_enabled(
    debian: Chroot, deb: Built
) -> None:
    for name, does in (
        ("aa-enabled", "test ! -e /apparmor-is-off"),
        ("apparmor_parser", 'echo "$*" >>/parser.log; exit 1'),
    ):
        command = debian.root / "usr/bin" / name
        command.write_text(f"#!/bin/sh\n{does}\n")
        command.chmod(0o755)
    parser_log = debian.root / "parser.log"
    debian.install(deb.file("skragent"))  # the parser fails
    (loaded,) = parser_log.read_text().splitlines()
    assert loaded.split()[0] == "--replace"
    assert loaded.split()[-1] == PROFILE
    (debian.root / "etc/apparmor.d/local").mkdir()
    local = debian.root / "etc/apparmor.d/local/skragent"
    local.write_text("/srv/ca.pem r,\n")
    debian.must("dpkg", "--remove", "skragent")
    assert parser_log.read_text().splitlines()[1:] == [f"--remove {PROFILE}"]
    assert local.exists()
    debian.must("dpkg", "--purge", "skragent")
    assert not (debian.root / "etc/apparmor.d").exists()
    (debian.root / "apparmor-is-off").touch()
    debian.install(deb.file("skragent"))
    assert len(parser_log.read_text().splitlines()) == 2


def test_the_packages_agent_imports_no_module_of_the_system(
    installed: Chroot,
) -> None:
    code = (
        "import sys, json; sys.path.append('/usr/lib/skragent');"
        "import skragent.agent.daemon, skragent.releaser.pipeline;"
        "import skragent.evidence.tpm;"
        "import skragent.agent.systemd_notify, systemd.daemon;"
        "print(json.dumps(sorted({getattr(m, '__file__', '') or ''"
        " for m in sys.modules.values()})))"
    )
    shown = installed.must("/usr/bin/python3", "-IS", "-c", code)
    places = json.loads(shown)
    assert not [p for p in places if "dist-packages" in p or "site-packages" in p]
    assert sum(p.startswith("/usr/lib/skragent/") for p in places) > 100


def test_the_packages_metrics_page_has_the_version(debian: Chroot, deb: Built) -> None:
    debian.install(deb.file("skragent"))
    code = (
        "import sys; sys.path.append('/usr/lib/skragent');"
        "from skragent.observe import Counters;"
        "from skragent.observe.metrics import MetricsPage;"
        "print(MetricsPage(Counters(), list).render('')[0].decode())"
    )
    assert 'version="0.2.0"' in debian.must("/usr/bin/python3", "-IS", "-c", code)
