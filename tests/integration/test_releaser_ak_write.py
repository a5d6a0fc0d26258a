"""The AK certificate survives interrupted renewals: a real TPM, real kills."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from support.ak_renewal import (
    ANEW,
    AT_ONCE,
    CHANGES,
    DEADLINE_SECONDS,
    IN_PIECES,
    ITS_PASSWORDS,
    KINDS,
    RELEASER,
    Guest,
    Kind,
    define_index,
)

from skragent.emulator.thread import EmulatorThread
from skragent.emulator.tpm.messages import (
    CC_NV_DEFINE_SPACE,
    CC_NV_UNDEFINE_SPACE,
    CC_NV_WRITE,
    TpmRefusal,
)
from skragent.errors import Disposition, TpmError
from skragent.evidence.tpm import Vtpm

pytestmark = pytest.mark.swtpm

NV_RATE = 0x920
NV_SPACE = 0x14B


@pytest.fixture
def guest(emulator: EmulatorThread, tmp_path: Path) -> Iterator[Guest]:
    emulator.instance.requests.clear()
    guest = Guest(emulator, tmp_path)
    yield guest
    guest.close()


def changes(guest: Guest) -> list[int]:
    """Those commands of the last renewal that changed something."""
    return [code for code in guest.seen if code in CHANGES]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_renewal_leaves_the_new_certificate_and_no_copy(
    guest: Guest, kind: Kind
) -> None:
    guest.prepare(kind)
    assert guest.renew().code == ""
    assert guest.holds() == "new"
    assert list(guest.state.iterdir()) == []


def test_a_small_certificate_takes_one_command_in_place(
    guest: Guest,
) -> None:
    guest.prepare(AT_ONCE)
    guest.renew()
    assert changes(guest) == [CC_NV_WRITE]


def test_a_large_certificate_is_written_in_place_as_far_as_it_differs(
    guest: Guest,
) -> None:
    """In 4096 bytes, of which the last 2048 are zeros before and after."""
    guest.prepare(IN_PIECES)
    guest.renew()
    assert changes(guest) == [CC_NV_WRITE] * 2


def test_an_index_that_is_too_small_is_redefined(guest: Guest) -> None:
    guest.prepare(ANEW)
    guest.renew()
    steps = [CC_NV_UNDEFINE_SPACE, CC_NV_DEFINE_SPACE, CC_NV_WRITE, CC_NV_WRITE]
    assert changes(guest) == steps


def test_an_index_that_its_empty_password_writes_is_written_in_place(
    guest: Guest,
) -> None:
    guest.prepare(Kind("its own", 1000, 0, 0, ITS_PASSWORDS))
    assert guest.renew().code == ""
    assert guest.holds() == "new"
    assert changes(guest) == [CC_NV_WRITE]


def test_an_index_with_a_password_is_defined_anew(guest: Guest) -> None:
    guest.prepare(AT_ONCE)
    tcti = guest.instance.vm.tcti
    define_index(tcti, guest.old, ITS_PASSWORDS, 1000, password="secret")
    assert guest.renew().code == ""
    assert guest.holds() == "new"
    assert CC_NV_DEFINE_SPACE in changes(guest)
    index = guest.index()
    assert index is not None
    assert index.size == 1000  # as before, for the next renewal


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        (ANEW, signal.SIGTERM),
        (ANEW, signal.SIGKILL),
        (IN_PIECES, signal.SIGKILL),
        (AT_ONCE, signal.SIGKILL),
    ],
    ids=str,
)
def test_a_certificate_survives_an_end_at_every_command(
    guest: Guest, kind: Kind, number: signal.Signals
) -> None:
    """Each run ends the releaser while the TPM has one command more behind it."""
    reached, ended = 0, 0

    def end(_: int, running: subprocess.Popen[bytes]) -> None:
        if len(guest.seen) == reached:
            os.kill(running.pid, number)

    while True:
        reached += 1
        guest.prepare(kind)
        outcome = guest.renew(end)
        if len(guest.seen) < reached:
            break
        if outcome.status == -number:
            ended += 1
        guest.restore()
        assert guest.holds() in {"old", "new"}, f"{reached} of {len(guest.seen)}"
        assert not guest.copy.exists()
    assert ended > 5


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_sigterm_waits_until_a_write_that_has_begun_is_verified(
    guest: Guest, kind: Kind
) -> None:
    guest.prepare(kind)

    def end(code: int, running: subprocess.Popen[bytes]) -> None:
        if code in CHANGES:
            os.kill(running.pid, signal.SIGTERM)

    assert guest.renew(end).status == -signal.SIGTERM
    assert guest.holds() == "new"
    assert not guest.copy.exists()


def test_sigterm_ends_a_renewal_that_waits_for_imds(guest: Guest) -> None:
    guest.prepare(ANEW)
    guest.break_("imds.hang,path=/renew")

    def end(_: int, running: subprocess.Popen[bytes]) -> None:
        os.kill(running.pid, signal.SIGTERM)

    outcome = guest.renew(end)
    assert outcome.status == -signal.SIGTERM
    assert guest.holds() == "old"


@pytest.mark.parametrize("times", [1, 4, 5, 20])
@pytest.mark.parametrize(
    ("kind", "command"),
    [
        (AT_ONCE, CC_NV_WRITE),
        (IN_PIECES, CC_NV_WRITE),
        (ANEW, CC_NV_UNDEFINE_SPACE),
        (ANEW, CC_NV_DEFINE_SPACE),
        (ANEW, CC_NV_WRITE),
    ],
    ids=lambda value: value if isinstance(value, Kind) else f"{value:#x}",
)
def test_a_tpm_that_is_busy_however_often_costs_no_certificate(
    guest: Guest, kind: Kind, command: int, times: int
) -> None:
    guest.prepare(kind)
    guest.break_(f"vm.rc={NV_RATE:#x},command={command:#x},times={times}")
    code = guest.renew().code
    assert code in {"", "evidence.tpm.busy"}
    assert (code == "") <= (guest.holds() == "new")
    for _ in range(times):
        if guest.restore().code != "evidence.tpm.busy":
            break
    assert guest.holds() in {"old", "new"}
    assert not guest.copy.exists()


def test_the_next_job_restores_the_certificate_after_a_busy_tpm(guest: Guest) -> None:
    guest.prepare(ANEW)
    guest.break_(f"vm.rc={NV_RATE:#x},command={CC_NV_DEFINE_SPACE:#x}")
    busy = guest.renew()
    assert busy.code == "evidence.tpm.busy"
    assert busy.result is not None
    assert busy.result.failure is not None
    assert str(guest.copy) in busy.result.failure.hint
    assert guest.holds() == "none"
    still_busy = guest.restore()
    assert still_busy.code == "evidence.tpm.busy"
    guest.lift()
    restored = guest.restore()
    assert restored.result is not None
    assert restored.result.ak_restored
    assert guest.holds() == "new"


def test_the_old_certificate_is_restored_if_the_new_one_is_too_long(
    guest: Guest,
) -> None:
    guest.prepare(ANEW)
    large = len(guest.old) + 40

    def refuse(code: int, _: object) -> None:
        asked.append(code)
        if code == CC_NV_DEFINE_SPACE and asked.count(code) <= 2:
            raise TpmRefusal(NV_SPACE)

    asked: list[int] = []
    assert guest.renew(refuse).code == "evidence.tpm"
    assert len(guest.new) > large
    assert guest.holds() == "old"
    assert not guest.copy.exists()


def test_a_write_that_needs_a_copy_is_not_begun_without_a_directory(
    guest: Guest,
) -> None:
    for kind in (IN_PIECES, ANEW):
        guest.prepare(kind)
        assert guest.renew(state_directory="").code == "endorsements.ak_copy"
        assert changes(guest) == []
        assert guest.holds() == "old"


def test_one_command_in_place_needs_no_directory(guest: Guest) -> None:
    guest.prepare(AT_ONCE)
    assert guest.renew(state_directory="").code == ""
    assert guest.holds() == "new"


@pytest.mark.parametrize("directory", ["/proc/self", "/nonexistent", "/dev/full/x"])
def test_a_write_that_needs_a_copy_is_not_begun_where_none_can_be_written(
    guest: Guest, directory: str
) -> None:
    guest.prepare(ANEW)
    outcome = guest.renew(state_directory=directory)
    assert outcome.code == "endorsements.ak_copy"
    assert outcome.result is not None
    assert outcome.result.failure is not None
    assert outcome.result.failure.disposition == "retry_slowly"
    assert directory in outcome.result.failure.message
    assert changes(guest) == []
    assert guest.holds() == "old"


def test_a_copy_is_its_owners_alone_and_has_both_certificates(guest: Guest) -> None:
    guest.prepare(ANEW)
    seen: list[tuple[int, int]] = []

    def look(code: int, _: object) -> None:
        if code == CC_NV_UNDEFINE_SPACE:
            mode = stat.S_IMODE(guest.copy.stat().st_mode)
            seen.append((mode, guest.copy.read_text().count("BEGIN CERTIFICATE")))

    guest.renew(look)
    assert seen == [(0o600, 2)]


def lose(guest: Guest) -> None:
    """Have a renewal be killed when the index is gone."""

    def kill(code: int, running: subprocess.Popen[bytes]) -> None:
        if code == CC_NV_DEFINE_SPACE:
            running.kill()
            raise TpmRefusal(NV_RATE)

    guest.prepare(ANEW)
    guest.renew(kill)
    assert guest.holds() == "none"
    assert guest.copy.exists()


def test_another_vms_copy_is_not_restored(guest: Guest) -> None:
    """An image that was captured between a kill and the next start."""
    lose(guest)
    copies = guest.copy.read_bytes()
    foreign = guest.instance.azure.pki.root.public_bytes(Encoding.PEM)
    guest.copy.write_bytes(foreign)
    outcome = guest.restore()
    assert outcome.code == "evidence.ak_cert_not_provisioned"
    assert guest.holds() == "none"
    assert not guest.copy.exists()
    guest.copy.write_bytes(foreign + copies)
    guest.restore()
    assert guest.holds() == "new"


def test_a_certificate_that_ends_later_than_the_copies_stays(guest: Guest) -> None:
    """Another program renewed it, or the disk is an older one."""
    lose(guest)
    copies = guest.copy.read_bytes()
    guest.restore()
    guest.prepare(ANEW, days=800)
    guest.copy.write_bytes(copies)
    outcome = guest.restore()
    assert outcome.result is not None
    assert not outcome.result.ak_restored
    assert guest.holds() == "old"  # the one of 800 days
    assert not guest.copy.exists()


def test_a_paravisors_index_is_not_written_from_any_copy(
    guest: Guest,
) -> None:
    lose(guest)
    guest.emulator.call(guest.instance.faults.reset())
    before = guest.index()
    outcome = guest.restore()
    assert outcome.code == ""
    assert guest.index() == before
    assert changes(guest) == []


def test_a_file_without_certificates_is_removed(guest: Guest) -> None:
    guest.prepare(ANEW)
    guest.copy.write_text("nothing")
    assert guest.restore().code == "transport.refused"
    assert guest.holds() == "old"
    assert not guest.copy.exists()


def test_an_unreadable_copy_is_reported_if_it_is_needed(guest: Guest) -> None:
    lose(guest)
    kept = guest.copy.read_bytes()
    guest.copy.unlink()
    guest.copy.mkdir()
    failed = guest.restore()
    assert failed.code == "endorsements.ak_copy"
    guest.copy.rmdir()
    guest.copy.write_bytes(kept)
    guest.restore()
    assert guest.holds() == "new"
    guest.copy.mkdir()
    assert guest.restore().code == ""  # the index is whole: the copy is not needed


@pytest.mark.parametrize("kind", [IN_PIECES, ANEW], ids=str)
def test_a_write_that_needs_a_copy_is_refused_without_one(
    guest: Guest, kind: Kind
) -> None:
    """Another program changed the index after the renewal looked at it."""
    guest.prepare(kind)
    der = bytes(len(guest.old) + 1)
    with Vtpm(guest.instance.vm.tcti) as vtpm, pytest.raises(TpmError) as caught:
        vtpm.write_ak_certificate(der, has_copy=False)
    assert caught.value.disposition is Disposition.RETRY
    assert guest.holds() == "old"


def test_a_releaser_whose_agent_died_as_it_started_does_nothing(guest: Guest) -> None:
    """Else it would renew beside the next agent's releaser, which may restore."""
    guest.prepare(ANEW)
    seen: list[int] = []
    guest.instance.vm.vtpm.guards["test"] = seen.append
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run(
        RELEASER,
        input=msgspec.json.encode(guest.job()),
        stdout=writes,
        stderr=subprocess.PIPE,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    os.close(writes)
    assert done.returncode != 0
    assert seen == []
