"""Faults of the emulated VM, as its vTPM shows them."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import struct
import threading
from datetime import timedelta

import pytest
import requests
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.utils import CryptographyDeprecationWarning
from support.deadlines import DEADLINE_SECONDS
from support.faults import THIM
from support.vtpm import GET_RANDOM, ask_vtpm, code_of

from skragent.emulator.faults.grammar import FaultError
from skragent.emulator.thread import EmulatorThread
from skragent.emulator.tpm import messages as tpm

pytestmark = pytest.mark.swtpm

LOCKED_OUT = 0x921
BUSY = 0x922
NO_AK_CERTIFICATE = 0x14A
REPORT = 0x01400001
AK_CERTIFICATE = 0x01C101D0
GUARDED = 0x01800000  # an index with dictionary attack protection
HW_REPORT = 0x20
HOUR = timedelta(hours=1)


def break_(emulator: EmulatorThread, fault: str) -> None:
    emulator.call(emulator.instance.faults.apply(fault))


def reset(emulator: EmulatorThread) -> None:
    emulator.call(emulator.instance.faults.reset())


def ask(emulator: EmulatorThread, command: tpm.Command | bytes) -> bytes:
    raw = command if isinstance(command, bytes) else command.encode()
    return ask_vtpm(emulator.instance.directory / "tpm.sock", raw)


def ok(emulator: EmulatorThread, command: tpm.Command, **how: bool) -> tpm.Response:
    answer = tpm.parse_response(ask(emulator, command), **how)
    assert answer.rc == tpm.RC_SUCCESS, hex(answer.rc)
    return answer


def pcr_of(emulator: EmulatorThread, index: int) -> bytes:
    """Read a PCR of the SHA-256 bank."""
    bits = (1 << index).to_bytes(3, "little")
    selection = struct.pack(">IHB", 1, tpm.ALG_SHA256, 3) + bits
    return ok(emulator, tpm.Command(0x17E, parameters=selection)).parameters[-32:]


def null_primary(emulator: EmulatorThread) -> bytes:
    """Create a primary key in the NULL hierarchy; return its public point."""
    template = struct.pack(
        ">HHIHHHHHH", 0x23, 0xB, 0x40472, 0, 0x10, 0x18, 0xB, 3, 0x10
    )
    template += bytes(4)
    create = tpm.Command(
        tpm.CC_CREATE_PRIMARY,
        (0x40000007,),
        (tpm.PASSWORD,),
        tpm.sized(bytes(4)) + tpm.sized(template) + bytes(6),
    )
    answer = ok(emulator, create, has_handle=True)
    ok(
        emulator,
        tpm.Command(
            tpm.CC_FLUSH_CONTEXT, parameters=struct.pack(">I", answer.handle or 0)
        ),
    )
    return tpm.Reader(answer.parameters).sized()


def read_nv(index: int, size: int, offset: int = 0) -> tpm.Command:
    return tpm.Command(
        tpm.CC_NV_READ,
        (tpm.RH_OWNER, index),
        (tpm.PASSWORD,),
        struct.pack(">HH", size, offset),
    )


def read_report(emulator: EmulatorThread) -> bytes:
    pieces = []
    for offset in range(0, 2600, 1024):
        command = read_nv(REPORT, min(1024, 2600 - offset), offset)
        pieces.append(ok(emulator, command).parameters[2:])
    return b"".join(pieces)


def nv_public(emulator: EmulatorThread, index: int) -> bytes:
    """Read a TPMS_NV_PUBLIC."""
    command = tpm.Command(tpm.CC_NV_READ_PUBLIC, (index,))
    return tpm.Reader(ok(emulator, command).parameters).sized()


def ak_certificate(emulator: EmulatorThread) -> x509.Certificate:
    chunks = [
        ok(emulator, read_nv(AK_CERTIFICATE, 1024, offset)).parameters[2:]
        for offset in range(0, 4096, 1024)
    ]
    return x509.load_der_x509_certificate(b"".join(chunks).rstrip(b"\0"))


def guests_certificate(emulator: EmulatorThread) -> bytes:
    """Read the whole index that the guest owns."""
    size = int.from_bytes(nv_public(emulator, AK_CERTIFICATE)[-2:], "big")
    return ok(emulator, read_nv(AK_CERTIFICATE, size)).parameters[2:]


def endorsements(emulator: EmulatorThread) -> dict[str, str]:
    answer = requests.get(
        emulator.instance.azure.imds_url + THIM,
        headers={"Metadata": "true"},
        timeout=DEADLINE_SECONDS,
    )
    document: dict[str, str] = answer.json()
    return document


def is_vouched_for(emulator: EmulatorThread) -> bool:
    """Return whether THIM's VCEK verifies the current report."""
    report = read_report(emulator)[HW_REPORT:]
    pem = endorsements(emulator)["vcekCert"].encode()
    with pytest.warns(CryptographyDeprecationWarning, match="positive"):
        key = x509.load_pem_x509_certificate(pem).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    r, s = (int.from_bytes(report[o : o + 72], "little") for o in (0x2A0, 0x2E8))
    signature = utils.encode_dss_signature(r, s)
    try:
        key.verify(signature, report[:0x2A0], ec.ECDSA(SHA384()))
    except InvalidSignature:
        return False
    return True


def test_reboot_gives_the_null_hierarchy_a_new_seed(emulator: EmulatorThread) -> None:
    before = null_primary(emulator)
    assert null_primary(emulator) == before
    break_(emulator, "vm.reboot")
    assert null_primary(emulator) != before


@pytest.mark.parametrize(("fault", "index"), [("pcr", 7), ("pcr=0", 0), ("pcr=4", 4)])
def test_pcr_changes_and_the_reset_restores_it(
    emulator: EmulatorThread, fault: str, index: int
) -> None:
    before = pcr_of(emulator, index)
    break_(emulator, f"vm.{fault}")
    break_(emulator, f"vm.{fault}")
    assert pcr_of(emulator, index) != before
    reset(emulator)
    assert pcr_of(emulator, index) == before


def guarded_read(emulator: EmulatorThread) -> int:
    """Read an index that the lockout protects, with its secret; return the code."""
    # AUTHREAD, AUTHWRITE, and not NO_DA; written once.
    public = struct.pack(">IHIHH", GUARDED, tpm.ALG_SHA256, 0x00040004, 0, 8)
    define = tpm.Command(
        tpm.CC_NV_DEFINE_SPACE,
        (tpm.RH_OWNER,),
        (tpm.PASSWORD,),
        bytes(2) + tpm.sized(public),
    )
    write = tpm.Command(
        tpm.CC_NV_WRITE,
        (GUARDED, GUARDED),
        (tpm.PASSWORD,),
        tpm.sized(bytes(8)) + bytes(2),
    )
    # The first use of a protected object is TPM_RC_RETRY: the TPM records it in NV.
    for command in (define, write, write):
        ask(emulator, command)
    parameters = struct.pack(">HH", 8, 0)
    read = tpm.Command(tpm.CC_NV_READ, (GUARDED,) * 2, (tpm.PASSWORD,), parameters)
    return code_of(ask(emulator, read))


def test_lockout_blocks_objects_with_dictionary_attack_protection(
    emulator: EmulatorThread,
) -> None:
    assert guarded_read(emulator) == tpm.RC_SUCCESS
    break_(emulator, "vm.lockout")
    break_(emulator, "vm.lockout")
    assert guarded_read(emulator) == LOCKED_OUT
    assert code_of(ask(emulator, read_nv(REPORT, 8))) == tpm.RC_SUCCESS
    reset(emulator)
    assert guarded_read(emulator) == tpm.RC_SUCCESS


def change_lockout_secret(old: bytes, new: bytes) -> tpm.Command:
    return tpm.Command(
        tpm.CC_HIERARCHY_CHANGE_AUTH,
        (0x4000000A,),
        (tpm.password(old),),
        tpm.sized(new),
    )


def test_lockout_with_a_secret_of_the_guest_is_not_changed(
    emulator: EmulatorThread,
) -> None:
    ok(emulator, change_lockout_secret(b"", b"mine"))
    with pytest.raises(FaultError):
        break_(emulator, "vm.lockout")
    assert guarded_read(emulator) == tpm.RC_SUCCESS
    assert emulator.instance.faults.applied == []
    # A wrong secret would have locked the lockout hierarchy itself.
    ok(emulator, change_lockout_secret(b"mine", b""))


def test_every_command_is_answered_with_the_code(emulator: EmulatorThread) -> None:
    break_(emulator, "vm.rc=0x922")
    assert code_of(ask(emulator, GET_RANDOM)) == BUSY
    assert code_of(ask(emulator, read_nv(REPORT, 8))) == BUSY
    reset(emulator)
    assert code_of(ask(emulator, GET_RANDOM)) == tpm.RC_SUCCESS


def test_one_command_is_answered_with_the_code_a_number_of_times(
    emulator: EmulatorThread,
) -> None:
    break_(emulator, "vm.rc=0x921,command=0x14e,times=2")
    codes = [code_of(ask(emulator, read_nv(REPORT, 8))) for _ in range(3)]
    assert codes == [LOCKED_OUT, LOCKED_OUT, tpm.RC_SUCCESS]
    assert code_of(ask(emulator, GET_RANDOM)) == tpm.RC_SUCCESS


def test_tpm_that_hangs_does_not_answer_until_the_reset(
    emulator: EmulatorThread,
) -> None:
    asked, guards = threading.Event(), emulator.instance.vm.vtpm.guards
    guards["test"] = lambda _code: asked.set()
    break_(emulator, "vm.hang")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(emulator.instance.directory / "tpm.sock"))
        connection.settimeout(DEADLINE_SECONDS)
        connection.sendall(GET_RANDOM)
        assert asked.wait(DEADLINE_SECONDS)
        del guards["test"]
        reset(emulator)
        assert connection.recv(1) == b""  # the reboot ends it, without an answer
    assert code_of(ask(emulator, GET_RANDOM)) == tpm.RC_SUCCESS


@pytest.mark.parametrize(
    "fault",
    [
        *("vm.pcr", "vm.lockout", "vm.report=magic", "imds.thim_lags"),
        *("vm.ak_cert", "vm.ak_cert_days=30", "vm.ak_cert_guests"),
    ],
)
def test_fault_that_needs_the_tpm_does_not_wait_for_a_hanging_tpm(
    emulator: EmulatorThread, fault: str
) -> None:
    break_(emulator, "vm.hang")
    with pytest.raises(FaultError, match="the TPM hangs"):
        break_(emulator, fault)
    assert emulator.instance.faults.applied == ["vm.hang"]
    break_(emulator, "vm.reboot")
    break_(emulator, fault)
    reset(emulator)
    assert is_vouched_for(emulator)


def test_fault_that_needs_the_tpm_is_refused_if_the_tpm_has_failed(
    emulator: EmulatorThread,
) -> None:
    pid = emulator.instance.vm.vtpm.process.pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(FaultError, match="the TPM does not answer"):
        break_(emulator, "vm.pcr")
    reset(emulator)
    assert code_of(ask(emulator, GET_RANDOM)) == tpm.RC_SUCCESS


def test_ak_certificate_is_not_provisioned(emulator: EmulatorThread) -> None:
    read = read_nv(AK_CERTIFICATE, 64)
    before = ok(emulator, read).parameters
    break_(emulator, "vm.ak_cert")
    assert code_of(ask(emulator, read)) == NO_AK_CERTIFICATE
    reset(emulator)
    assert ok(emulator, read).parameters == before


def test_ak_certificate_expires_in_the_given_days(emulator: EmulatorThread) -> None:
    now = emulator.instance.azure.clock.utc()
    for days in (30, -3):
        break_(emulator, f"vm.ak_cert_days={days}")
        end = ak_certificate(emulator).not_valid_after_utc
        assert timedelta(days=days) - HOUR < end - now < timedelta(days=days) + HOUR
    reset(emulator)
    end = ak_certificate(emulator).not_valid_after_utc
    assert end - now > timedelta(days=300)


def test_guest_owns_the_index_of_the_ak_certificate(emulator: EmulatorThread) -> None:
    undefine = tpm.Command(
        tpm.CC_NV_UNDEFINE_SPACE, (tpm.RH_OWNER, AK_CERTIFICATE), (tpm.PASSWORD,)
    )
    assert code_of(ask(emulator, undefine)) == tpm.RC_NV_AUTHORIZATION
    break_(emulator, "vm.ak_cert_guests")
    assert x509.load_der_x509_certificate(guests_certificate(emulator))  # no padding
    assert code_of(ask(emulator, undefine)) == tpm.RC_SUCCESS
    reset(emulator)
    assert code_of(ask(emulator, undefine)) == tpm.RC_NV_AUTHORIZATION
    assert nv_public(emulator, AK_CERTIFICATE)[-2:] == (4096).to_bytes(2, "big")


def test_guests_index_keeps_its_contents_at_a_reboot(
    emulator: EmulatorThread,
) -> None:
    break_(emulator, "vm.ak_cert_guests")
    before = guests_certificate(emulator)
    break_(emulator, "vm.reboot")
    assert guests_certificate(emulator) == before
    undefine = tpm.Command(
        tpm.CC_NV_UNDEFINE_SPACE, (tpm.RH_OWNER, AK_CERTIFICATE), (tpm.PASSWORD,)
    )
    assert code_of(ask(emulator, undefine)) == tpm.RC_SUCCESS
    break_(emulator, "vm.reboot")
    read_public = tpm.Command(tpm.CC_NV_READ_PUBLIC, (AK_CERTIFICATE,))
    assert code_of(ask(emulator, read_public)) != tpm.RC_SUCCESS


def test_guests_index_has_no_certificate_yet(emulator: EmulatorThread) -> None:
    break_(emulator, "vm.ak_cert_guests")
    break_(emulator, "vm.ak_cert")
    assert code_of(ask(emulator, read_nv(AK_CERTIFICATE, 1))) == NO_AK_CERTIFICATE


@pytest.mark.parametrize("part", ["magic", "measurement", "signature", "runtime_data"])
def test_report_is_wrong_in_one_part(emulator: EmulatorThread, part: str) -> None:
    break_(emulator, f"vm.report={part}")
    report = read_report(emulator)
    size = int.from_bytes(report[0x4D0:0x4D4], "little")
    digest = hashlib.sha256(report[0x4D4 : 0x4D4 + size]).digest()
    wrong = {
        "magic": report[:4] != b"HCLA",
        "runtime_data": digest != report[HW_REPORT + 0x50 : HW_REPORT + 0x70],
    }
    is_signed = is_vouched_for(emulator)
    assert [name for name, is_wrong in wrong.items() if is_wrong] == (
        [part] if part in wrong else []
    )
    assert is_signed is (part in wrong)
    reset(emulator)
    assert is_vouched_for(emulator)
    assert read_report(emulator)[:4] == b"HCLA"


def test_endorsements_lag_the_firmware(emulator: EmulatorThread) -> None:
    old = endorsements(emulator)
    assert is_vouched_for(emulator)
    break_(emulator, "imds.thim_lags")
    assert endorsements(emulator) == old
    reported = read_report(emulator)[HW_REPORT + 0x180 : HW_REPORT + 0x188]
    assert reported[::-1].hex().upper() > old["tcbm"]
    assert not is_vouched_for(emulator)
    reset(emulator)
    assert is_vouched_for(emulator)


def test_updated_endorsements_match_the_new_firmware(
    emulator: EmulatorThread,
) -> None:
    old = endorsements(emulator)
    break_(emulator, "imds.thim_lags")
    emulator.instance.imds.clear_hooks()
    assert endorsements(emulator)["tcbm"] > old["tcbm"]
    assert is_vouched_for(emulator)
