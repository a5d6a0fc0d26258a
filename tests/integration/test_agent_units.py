"""The unit files: systemd understands them, and they agree with the code."""

from __future__ import annotations

import configparser
import inspect
import subprocess
from pathlib import Path

import pytest
from support.units import UNITS, lay_out, verify

from skragent import exit_codes
from skragent.agent import socket_activation
from skragent.agent.job_runner import TERMINATE_SECONDS
from skragent.agent.listeners import ADMIN, API, CREDENTIALS, SocketKind
from skragent.agent.signals_and_limits import EXIT_DELAY_SECONDS
from skragent.client import SkragentClient
from skragent.config import AgentConfig, ImdsConfig, VtpmConfig
from skragent.job import ARENA_BYTES_PER_KEY, MAX_KEYS
from skragent.serving import Limits
from skragent.serving.servers import CLOSE_SECONDS
from skragent.serving.systemd_credentials import MAX_CONNECTIONS, REJECT_SECONDS


def read(name: str) -> configparser.ConfigParser:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.read(UNITS / name)
    return unit


@pytest.mark.systemd_analyze
def test_systemd_finds_no_fault(tmp_path: Path) -> None:
    lay_out(tmp_path)
    outcome = verify(tmp_path, sorted(unit.name for unit in UNITS.glob("skragent*.*")))
    assert (outcome.returncode, outcome.stderr) == (0, "")


@pytest.mark.systemd_analyze
def test_systemd_would_find_a_fault(tmp_path: Path) -> None:
    units = lay_out(tmp_path)
    (tmp_path / "usr/bin/skragent").unlink()
    with (units / "skragent.socket").open("a") as unit:
        unit.write("NoSuchSetting=1\n")
    outcome = verify(tmp_path, ["skragent.service", "skragent.socket"])
    assert "/usr/bin/skragent is not executable" in outcome.stderr
    assert "NoSuchSetting" in outcome.stderr


@pytest.mark.systemd_analyze
def test_systemd_finds_the_service_little_exposed() -> None:
    command = ["systemd-analyze", "security", "--no-pager", "--offline=true"]
    outcome = subprocess.run(
        [*command, "--threshold=15", UNITS / "skragent.service"],  # 1.5
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_every_unit_names_its_manual_pages() -> None:
    for unit in UNITS.glob("skragent*.*"):
        pages = read(unit.name)["Unit"]["Documentation"]
        assert pages == "man:skragent.service(8) man:skragent(1)"


def test_systemd_does_not_restart_what_time_cannot_mend() -> None:
    prevented = read("skragent.service")["Service"]["RestartPreventExitStatus"].split()
    assert prevented == [str(code) for code in exit_codes.FINAL]


def test_systemd_never_gives_up_for_that_takes_the_sockets_down() -> None:
    unit = read("skragent.service")
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    client_seconds = inspect.signature(SkragentClient).parameters["timeout"].default
    assert int(unit["Service"]["RestartSec"]) <= client_seconds / 2


def test_names_in_rules_may_come_from_a_directory_service() -> None:
    unit = read("skragent.service")["Unit"]
    assert "nss-user-lookup.target" in unit["After"].split()
    assert "nss-user-lookup.target" not in unit["Wants"], (
        "the directory service wants it"
    )


def test_an_agent_that_delays_its_end_is_within_the_times_of_the_unit() -> None:
    unit = read("skragent.service")["Service"]
    assert "TimeoutStartSec" not in unit  # systemd's: 90 s
    assert socket_activation.REJECT_SECONDS + EXIT_DELAY_SECONDS < 90
    assert (
        int(unit["TimeoutStopSec"])
        > EXIT_DELAY_SECONDS + REJECT_SECONDS + CLOSE_SECONDS
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("skragent.socket", API),
        ("skragent-credentials.socket", CREDENTIALS),
        ("skragent-admin.socket", ADMIN),
    ],
)
def test_the_units_sockets_are_those_that_the_agent_looks_for(
    name: str, kind: SocketKind
) -> None:
    unit = read(name)["Socket"]
    assert unit["FileDescriptorName"] == kind.name
    assert unit["ListenStream"] == getattr(AgentConfig(), kind.setting)
    assert unit["SocketMode"] == f"{kind.mode:04o}"
    assert unit["SocketUser"] == "root"
    assert unit["SocketGroup"] == (kind.group or "root")
    assert name in read("skragent.service")["Service"]["Sockets"].split()


def test_the_memory_that_may_be_locked_suffices_for_three_jobs_of_all_keys() -> None:
    # What is held, the version before of all of it, and a job under way.
    limit = read("skragent.service")["Service"]["LimitMEMLOCK"]
    assert limit == "64M"
    assert 3 * MAX_KEYS * ARENA_BYTES_PER_KEY < 64 * 1024 * 1024


def test_no_socket_can_take_the_descriptors_of_the_others() -> None:
    limits = Limits()
    most = 2 * limits.connections  # api and admin
    most += limits.connections_per_uid + MAX_CONNECTIONS  # metrics, credentials
    assert int(read("skragent.service")["Service"]["LimitNOFILE"]) > most + 100


def test_systemd_can_store_every_connection_that_waits_for_a_credential() -> None:
    stored = int(read("skragent.service")["Service"]["FileDescriptorStoreMax"])
    assert stored > MAX_CONNECTIONS


def test_systemd_waits_until_refusals_are_taken() -> None:
    unit = read("skragent.service")["Service"]
    assert int(unit["TimeoutStopSec"]) > REJECT_SECONDS + CLOSE_SECONDS + 2


def test_systemd_waits_until_the_ak_certificate_is_written() -> None:
    unit = read("skragent.service")["Service"]
    others = REJECT_SECONDS + CLOSE_SECONDS
    assert int(unit["TimeoutStopSec"]) > others + TERMINATE_SECONDS + 2
    assert "at most five seconds" in (UNITS / "skragent.service").read_text()
    assert TERMINATE_SECONDS == 5


def test_the_agent_has_one_private_writable_directory() -> None:
    unit = read("skragent.service")["Service"]
    assert unit["ProtectSystem"] == "strict"
    assert unit["StateDirectory"] == "skragent"
    assert unit["StateDirectoryMode"] == "0700"
    assert not [name for name in unit if name in ("ReadWritePaths", "CacheDirectory")]
    made = (UNITS / "tmpfiles.d" / "skragent.conf").read_text()
    assert "\nd     /var/lib/skragent 0700 skragent skragent -\n" in made


def test_signals_wait_from_the_first_instruction_on() -> None:
    words = read("skragent.service")["Service"]["ExecStart"].split()
    assert words[:3] == ["/usr/bin/env", "--block-signal=TERM", "--block-signal=HUP"]


def test_peers_keep_their_uids_and_control_groups() -> None:
    unit = read("skragent.service")["Service"]
    assert "PrivateUsers" not in unit
    assert unit["ProtectProc"] == "default"


def test_fips_mode_is_seen() -> None:
    # OpenSSL and others read /proc/sys/crypto/fips_enabled.
    assert "ProcSubset" not in read("skragent.service")["Service"]


def test_the_tpm_is_the_one_device() -> None:
    unit = read("skragent.service")["Service"]
    device = VtpmConfig().tcti.removeprefix("device:")
    assert unit["PrivateDevices"] == "yes"
    assert unit["BindPaths"] == f"-{device}"
    assert unit["DeviceAllow"] == f"{device} rw"


def test_the_metadata_service_is_all_of_the_local_link() -> None:
    unit = read("skragent.service")["Service"]
    assert unit["IPAddressDeny"] == "link-local multicast"
    assert ImdsConfig().endpoint == f"http://{unit['IPAddressAllow']}"


def test_memory_suffices_for_all_keys_and_connections() -> None:
    # Measured (2026-12): 32 MiB of the agent; 60 MiB of a releaser of 100 keys, and 100
    # MiB of one whose 255 other keys are in as many vaults that hang.
    limits = Limits()
    callers = 2 * limits.connections + limits.connections_per_uid + MAX_CONNECTIONS
    each = limits.head_bytes + limits.body_bytes + 32 * 1024  # with the kernel's part
    keys = 3 * MAX_KEYS * ARENA_BYTES_PER_KEY
    needed = (32 + 100) * 2**20 + keys + callers * each
    unit = read("skragent.service")["Service"]
    assert unit["MemoryMax"] == "768M"
    assert 2 * needed < 768 * 2**20
    assert unit["MemorySwapMax"] == "0"


def test_a_releaser_without_memory_does_not_take_the_agent_with_it() -> None:
    assert read("skragent.service")["Service"]["OOMPolicy"] == "continue"


def test_there_are_threads_for_every_caller_that_is_slow_to_go() -> None:
    limits = Limits()
    assert int(read("skragent.service")["Service"]["TasksMax"]) > (
        limits.connections + 5 * MAX_KEYS + 100  # a releaser's
    )


def test_the_log_that_systemd_reads_for_us_is_the_one_that_we_would() -> None:
    unit = read("skragent.service")["Service"]
    assert unit["LoadCredential"] == f"tcglog:{VtpmConfig().tcg_log}"
    assert unit["SetCredential"] == "tcglog:none"


def test_memory_for_keys_is_allowed_after_all_that_takes_away() -> None:
    lines = (UNITS / "skragent.service").read_text().splitlines()
    filters = [line for line in lines if line.startswith("SystemCallFilter=")]
    assert filters[-1] == "SystemCallFilter=mlock mlock2 mlockall memfd_secret"


def test_the_sockets_stay_roots() -> None:
    # systemd gives a RuntimeDirectory= with all that is in it to User=.
    assert "RuntimeDirectory" not in read("skragent.service")["Service"]
