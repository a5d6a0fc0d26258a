"""The unit files: systemd understands them, and they agree with the code."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from skragent.agent import exit_codes
from skragent.agent.sockets import ADMIN, API, CREDENTIALS, SocketKind
from skragent.config import AgentConfig, ServingConfig, VtpmConfig
from skragent.job import ARENA_BYTES_PER_KEY, MAX_KEYS
from skragent.serving.credentials import MAX_CONNECTIONS, REFUSE_SECONDS
from skragent.serving.server import CLOSE_SECONDS

UNITS = Path(__file__).resolve().parents[2] / "systemd"


def read(name: str) -> configparser.ConfigParser:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.read(UNITS / name)
    return unit


def test_systemd_finds_no_fault(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("needs systemd-analyze")
    # Neither the package's command nor its manual pages are installed here.
    for unit in UNITS.glob("skragent*.*"):
        text = unit.read_text().replace("/usr/bin/skragent", "/bin/true")
        (tmp_path / unit.name).write_text(text)
    outcome = subprocess.run(
        [analyze, "verify", "--man=no", *sorted(tmp_path.iterdir())],
        capture_output=True,
        text=True,
        check=False,
    )
    about_ours = [line for line in outcome.stderr.splitlines() if "skragent" in line]
    assert about_ours == []


def test_systemd_does_not_restart_what_time_cannot_mend() -> None:
    prevented = read("skragent.service")["Service"]["RestartPreventExitStatus"].split()
    assert prevented == [str(exit_codes.UNAVAILABLE), str(exit_codes.CONFIG)]


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
    limits = ServingConfig()
    most = 2 * limits.connections  # api and admin
    most += limits.connections_per_uid + MAX_CONNECTIONS  # metrics, credentials
    assert int(read("skragent.service")["Service"]["LimitNOFILE"]) > most + 100


def test_systemd_can_store_every_connection_that_waits_for_a_credential() -> None:
    stored = int(read("skragent.service")["Service"]["FileDescriptorStoreMax"])
    assert stored > MAX_CONNECTIONS


def test_systemd_waits_until_refusals_are_taken() -> None:
    unit = read("skragent.service")["Service"]
    assert int(unit["TimeoutStopSec"]) > REFUSE_SECONDS + CLOSE_SECONDS + 2


def test_signals_wait_from_the_first_instruction_on() -> None:
    words = read("skragent.service")["Service"]["ExecStart"].split()
    assert words[:3] == ["/usr/bin/env", "--block-signal=TERM", "--block-signal=HUP"]


def test_peers_keep_their_uids_and_the_tpm_its_device() -> None:
    unit = read("skragent.service")["Service"]
    assert "PrivateUsers" not in unit
    assert "PrivateDevices" not in unit
    assert unit["ProtectProc"] == "default"
    assert unit["DeviceAllow"] == f"{VtpmConfig().tcti.removeprefix('device:')} rw"


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
