"""The emulated VM: age of reports, reboots, shutdown, and failed TPMs."""

from __future__ import annotations

import json
import os
import select
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.deadlines import DEADLINE_MILLISECONDS, DEADLINE_SECONDS
from support.vtpm import (
    GET_RANDOM,
    RunningVm,
    code_of,
    vm_directory,
)

from skragent.emulator.tpm import messages as tpm
from skragent.emulator.tpm.swtpm import VtpmError

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.swtpm

REPORT = 0x01400001
USER_DATA = 0x01400002


@pytest.fixture
def running() -> Iterator[RunningVm]:
    with vm_directory() as home, RunningVm(home) as vm:
        yield vm


def ok(running: RunningVm, command: tpm.Command) -> bytes:
    """Send a command that must succeed, and give its parameters."""
    answer = tpm.parse_response(running.ask(command.encode()))
    assert answer.rc == tpm.RC_SUCCESS, hex(answer.rc)
    return answer.parameters


def read_report(running: RunningVm) -> bytes:
    """Read NV 0x01400001 in chunks, from offset 0 on."""
    report = b""
    while len(report) < 2600:
        size = min(1024, 2600 - len(report))
        parameters = struct.pack(">HH", size, len(report))
        command = tpm.Command(
            tpm.CC_NV_READ, (tpm.RH_OWNER, REPORT), (tpm.PASSWORD,), parameters
        )
        report += ok(running, command)[2:]
    return report


def user_data_of(report: bytes) -> str:
    length = int.from_bytes(report[0x4D0:0x4D4], "little")
    text: str = json.loads(report[0x4D4 : 0x4D4 + length])["user-data"]
    return text


def write_user_data(running: RunningVm, data: bytes) -> None:
    """Define NV 0x01400002 as clients do, and write it."""
    # OWNERWRITE, OWNERREAD
    public = struct.pack(">IHIHH", USER_DATA, tpm.ALG_SHA256, 0x00020002, 0, 64)
    define = tpm.Command(
        tpm.CC_NV_DEFINE_SPACE,
        (tpm.RH_OWNER,),
        (tpm.PASSWORD,),
        bytes(2) + tpm.sized(public),
    )
    write = tpm.Command(
        tpm.CC_NV_WRITE,
        (tpm.RH_OWNER, USER_DATA),
        (tpm.PASSWORD,),
        tpm.sized(data) + bytes(2),
    )
    ok(running, define)
    ok(running, write)


def null_key(running: RunningVm) -> bytes:
    """Make a primary key in the NULL hierarchy; its public area tells its seed."""
    return tpm.Reader(make_primary(running, tpm.RH_NULL).parameters).sized()


def make_primary(running: RunningVm, hierarchy: int) -> tpm.Response:
    public = struct.pack(">HHI", 0x0023, tpm.ALG_SHA256, 0x00040072) + bytes(2)
    # No symmetric algorithm, ECDSA with SHA-256, P-256, no KDF, empty point.
    public += struct.pack(">HHHHH", 0x10, 0x18, tpm.ALG_SHA256, 3, 0x10) + bytes(4)
    command = tpm.Command(
        tpm.CC_CREATE_PRIMARY,
        (hierarchy,),
        (tpm.PASSWORD,),
        tpm.sized(bytes(4)) + tpm.sized(public) + bytes(6),
    )
    answer = tpm.parse_response(running.ask(command.encode()), has_handle=True)
    assert answer.rc == tpm.RC_SUCCESS
    return answer


def pcr(running: RunningVm, index: int) -> bytes:
    selection = struct.pack(">IHB", 1, tpm.ALG_SHA256, 3)
    selection += (1 << index).to_bytes(3, "little")
    return ok(running, tpm.Command(0x17E, parameters=selection))[-32:]


def test_user_data_is_zeros_where_the_guest_has_defined_none(
    running: RunningVm,
) -> None:
    assert user_data_of(read_report(running)) == "00" * 64


def test_user_data_is_mirrored_once_the_report_is_older_than_two_seconds(
    running: RunningVm,
) -> None:
    write_user_data(running, bytes(range(0xC0, 0x100)))
    running.clock.seconds += 2.0
    assert user_data_of(read_report(running)) == "00" * 64
    running.clock.seconds += 0.1
    # Upper case, as in captured reports.
    assert user_data_of(read_report(running)) == bytes(range(0xC0, 0x100)).hex().upper()


def test_read_past_offset_zero_refreshes_nothing(running: RunningVm) -> None:
    before = running.vm.paravisor.hcl_report
    running.clock.seconds += 60
    command = tpm.Command(
        tpm.CC_NV_READ,
        (tpm.RH_OWNER, REPORT),
        (tpm.PASSWORD,),
        struct.pack(">HH", 8, 1),
    )
    assert ok(running, command)[2:] == before[1:9]
    assert running.vm.paravisor.hcl_report == before


def test_read_without_authority_refreshes_nothing(running: RunningVm) -> None:
    before = running.vm.paravisor.hcl_report
    running.clock.seconds += 60
    command = tpm.Command(
        tpm.CC_NV_READ,
        (tpm.RH_OWNER, REPORT),
        (tpm.password(b"guess"),),
        struct.pack(">HH", 8, 0),
    )
    assert code_of(running.ask(command.encode())) == 0x9A2
    assert running.vm.paravisor.hcl_report == before


def test_report_file_follows_every_refresh(running: RunningVm) -> None:
    first = read_report(running)
    running.clock.seconds += 3
    second = read_report(running)
    assert first != second  # ECDSA signs with fresh randomness
    assert (running.directory / "hcl-report.bin").read_bytes() == second
    assert [one.name for one in running.directory.glob(".hcl*")] == []


def test_tampering_is_seen_by_the_guest(running: RunningVm) -> None:
    running.vm.paravisor.tamper = lambda report: b"HCLB" + report[4:]
    running.clock.seconds += 3
    assert read_report(running)[:4] == b"HCLB"


def test_reboot_gives_another_null_seed_and_the_same_identity(
    running: RunningVm,
) -> None:
    vm = running.vm
    before = (null_key(running), vm.paravisor.ak_public, vm.vm_id, pcr(running, 7))
    assert null_key(running) == before[0]
    running.call(vm.reboot)
    after = (null_key(running), vm.paravisor.ak_public, vm.vm_id, pcr(running, 7))
    assert before[0] != after[0]
    assert before[1:] == after[1:]


def test_reboot_after_a_guests_suspend_still_gives_another_null_seed(
    running: RunningVm,
) -> None:
    """TPM2_Shutdown(STATE) and a start would be a TPM Restart, which keeps the seed."""
    before = null_key(running)
    ok(running, tpm.Command(tpm.CC_SHUTDOWN, parameters=struct.pack(">H", 1)))
    running.call(running.vm.reboot)
    assert null_key(running) != before


def test_reboot_resets_extended_pcrs(running: RunningVm) -> None:
    at_boot = pcr(running, 7)
    log = running.vm.tcg_log_path.read_bytes()
    running.call(lambda: running.vm.extend_pcr(7, b"something new"))
    assert pcr(running, 7) != at_boot
    assert running.vm.tcg_log_path.read_bytes() == log
    running.call(running.vm.reboot)
    assert pcr(running, 7) == at_boot


def test_clearing_the_tpm_removes_the_owners_objects_but_not_the_identity(
    running: RunningVm,
) -> None:
    keys = [make_primary(running, tpm.RH_OWNER).handle or 0 for _ in range(4)]
    ak_public = running.vm.paravisor.ak_public
    ok(running, tpm.Command(0x126, (0x4000000A,), (tpm.PASSWORD,)))  # TPM2_Clear
    for key in keys:  # loaded or swapped out: gone either way
        read = tpm.Command(tpm.CC_READ_PUBLIC, (key,)).encode()
        assert code_of(running.ask(read)) == tpm.RC_REFERENCE_H0
    ask_ak = tpm.Command(tpm.CC_READ_PUBLIC, (0x81000003,)).encode()
    assert code_of(running.ask(ask_ak)) == 0x18B  # TPM_RC_HANDLE
    running.call(running.vm.reboot)
    assert (
        ok(running, tpm.Command(tpm.CC_READ_PUBLIC, (0x81000003,)))[:280]
        == (ak_public[:280])
    )


def test_reboot_closes_connections(running: RunningVm) -> None:
    with running.connect() as connection:
        connection.sendall(GET_RANDOM)
        assert connection.recv(4096)
        running.call(running.vm.reboot)
        assert connection.recv(4096) == b""


def test_second_start_is_the_same_vm() -> None:
    with vm_directory() as home:
        with RunningVm(home) as first:
            before = (first.vm.vm_id, first.vm.paravisor.ak_public, first.vm.ark_pem)
        with RunningVm(home) as second:
            after = (second.vm.vm_id, second.vm.paravisor.ak_public, second.vm.ark_pem)
    assert before == after


def test_vm_id_given_is_kept_in_upper_case() -> None:
    with (
        vm_directory() as home,
        RunningVm(home, vm_id="0f8e4b3a-6a2f-4d6e-9c51-27f1a6b0c9d8") as running,
    ):
        assert running.vm.vm_id == "0F8E4B3A-6A2F-4D6E-9C51-27F1A6B0C9D8"


def test_two_emulators_in_one_directory_are_refused(running: RunningVm) -> None:
    with pytest.raises(VtpmError, match="another emulator"):
        RunningVm(running.directory).__enter__()
    assert code_of(running.ask(GET_RANDOM)) == tpm.RC_SUCCESS


def test_path_too_long_for_a_socket_is_refused_by_name() -> None:
    with vm_directory() as home:
        deep = home / ("d" * 100)
        with pytest.raises(VtpmError, match="107 bytes"):
            RunningVm(deep).__enter__()


def test_missing_swtpm_is_an_error_with_the_packages_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with (
        vm_directory() as home,
        pytest.raises(VtpmError, match="install the package `swtpm`"),
    ):
        RunningVm(home).__enter__()


def test_dead_tpm_answers_failure_until_the_power_is_cycled(
    running: RunningVm,
) -> None:
    pid = running.vm.vtpm.process.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert code_of(running.ask(GET_RANDOM)) == tpm.RC_FAILURE
    assert code_of(running.ask(GET_RANDOM)) == tpm.RC_FAILURE
    running.call(running.vm.reboot)
    assert code_of(running.ask(GET_RANDOM)) == tpm.RC_SUCCESS


def test_stopped_tpm_answers_failure_after_the_deadline(running: RunningVm) -> None:
    process = running.vm.vtpm.process
    process.deadline_seconds = 0.05
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    assert code_of(running.ask(GET_RANDOM)) == tpm.RC_FAILURE
    os.kill(process.pid, signal.SIGCONT)
    # A late answer must not be taken for the next command's.
    assert code_of(running.ask(GET_RANDOM)) == tpm.RC_FAILURE


CHILD = """
import asyncio, pathlib, sys
from skragent.emulator.confidential_vm import ConfidentialVm
async def main():
    vm = await ConfidentialVm.start(pathlib.Path(sys.argv[1]))
    print(vm.vtpm.process.pid, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


def test_killed_emulator_leaves_no_tpm_behind() -> None:
    with vm_directory() as home:
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(home)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        pid = int(child.stdout.readline())
        # Even a TPM that is stopped, and cannot see that its socket has closed.
        os.kill(pid, signal.SIGSTOP)
        watched = os.pidfd_open(pid)
        child.kill()
        child.communicate(timeout=DEADLINE_SECONDS)
        assert ends(watched)
        os.close(watched)
        # What the killed one left does not hinder the next.
        with RunningVm(home) as running:
            assert code_of(running.ask(GET_RANDOM)) == tpm.RC_SUCCESS


def ends(pidfd: int) -> bool:
    """Wait for a process that is not our child."""

    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(DEADLINE_MILLISECONDS))


def test_closed_vm_leaves_neither_process_nor_sockets() -> None:
    with vm_directory() as home:
        with RunningVm(home) as running:
            pid = running.vm.vtpm.process.pid
        assert not Path(f"/proc/{pid}").exists()
        assert not (home / "tpm.sock").exists()
        assert not (home / "tpm.sock.ctrl").exists()


def test_only_the_owner_can_read_keys_on_disk(running: RunningVm) -> None:
    keys = [*running.directory.rglob("*key.pem"), *running.directory.rglob("tpm2-*")]
    assert len(keys) == 4
    assert {one.stat().st_mode & 0o777 for one in keys} == {0o600}
