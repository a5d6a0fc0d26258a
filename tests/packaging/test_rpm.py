"""Installation, upgrade and erasure of the RPMs in a Debian chroot, with Debian's rpm.

Dependencies have other names in Debian, so rpm runs with --nodeps.
"""

from __future__ import annotations

import re

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
ONE_KEY = (
    '\n[keys.mine]\nvault = "https://mine.vault.azure.net"\nallow = [{ user = 0 }]\n'
)


def test_the_installed_rpms_run_and_verify(debian: Chroot, rpm: Built) -> None:
    packages = [rpm.file(name) for name in ("skragent", "skragent-emulator")]
    output = debian.rpm("--install", "--nodeps", *packages)
    assert not re.search("warning|error|fail", output)
    assert debian.must("skragent", "--version").strip() == "0.2.0"
    assert "demo: ok" in debian.must("skragent", "demo")
    assert "tss" in debian.must("id", "-Gn", "skragent").split()
    places = ("/etc/skragent", CONFIG, "/usr/bin/skragent", "/usr/lib/skragent")
    shown = debian.must("stat", "-c", "%a %U:%G", *places)
    assert shown.splitlines() == [
        "750 root:skragent",
        "644 root:root",
        "755 root:root",
        "755 root:root",
    ]
    # A run has changed no file of the packages.
    assert debian.rpm("--verify", "--nodeps", "skragent", "skragent-emulator") == ""
    wants = "etc/systemd/system/multi-user.target.wants/skragent.service"
    assert not (debian.root / wants).exists()


@pytest.mark.parametrize("is_configured", [True, False])
def test_an_upgrade_keeps_the_configuration_and_the_sockets(
    debian: Chroot, rpm: Built, newer_rpm: Built, *, is_configured: bool
) -> None:
    debian.rpm("--install", "--nodeps", rpm.file("skragent"))
    config = debian.root / CONFIG[1:]
    if is_configured:
        config.write_text(ONE_KEY)
    debian.pretend_systemd()
    output = debian.rpm("--upgrade", "--nodeps", newer_rpm.file("skragent"))
    commands = debian.systemctl_commands()
    is_newer = config.read_text().endswith("# Newer.\n")
    assert is_newer == (not is_configured)
    assert config.with_suffix(".toml.rpmnew").exists() == is_configured
    assert not [
        t for t in commands if ".socket" in t and re.search("start|stop|able", t)
    ]
    assert [t for t in commands if "start" in t] == ["try-restart skragent.service"]
    assert f"systemctl stop skragent.service {SOCKETS}" in output
    assert debian.rpm("--query", "skragent").endswith("-2.x86_64\n")
    assert "skragent" in debian.must("id", "-gn", "skragent")


def test_erasing_leaves_only_the_changed_configuration_and_the_user(
    debian: Chroot, rpm: Built
) -> None:
    debian.pretend_systemd()
    before = debian.files()
    catalog = debian.root / "var/lib/systemd/catalog/database"
    packages = [rpm.file(name) for name in ("skragent", "skragent-emulator")]
    debian.rpm("--install", "--nodeps", *packages)
    debian.must("systemctl.real", "--root=/", "enable", "skragent.service")
    assert b"SKRAGENT_" in catalog.read_bytes()
    config = debian.root / CONFIG[1:]
    config.write_text(ONE_KEY)
    debian.rpm("--erase", "--nodeps", "skragent-emulator", "skragent")
    commands = debian.systemctl_commands()
    assert any("disable --now" in t and SOCKETS in t for t in commands)
    # The RPMs own shared folders, such as zsh's, that this Debian does not have.
    left = {
        p
        for p in debian.files() - before
        if "skragent" in p or not (debian.root / p).is_dir()
    }
    assert {p for p in left if not p.startswith(("systemctl.", "var/lib/rpm"))} == {
        "etc/skragent",
        "etc/skragent/skragent.toml.rpmsave",
    }
    assert b"SKRAGENT_" not in catalog.read_bytes()
    # RPMs keep their user, because files of that user may be anywhere.
    assert "skragent" in debian.must("id", "-gn", "skragent")
