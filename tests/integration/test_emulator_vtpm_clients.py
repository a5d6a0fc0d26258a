"""Unmodified clients of others at the vTPM's socket: tpm2-tools and tpm2-pytss."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from support.deadlines import DEADLINE_SECONDS
from support.vtpm import RunningVm, code_of, vm_directory

from skragent.emulator.tpm import messages as tpm

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.swtpm, pytest.mark.tpm2_tools]

AK = "0x81000003"


@pytest.fixture(scope="module")
def running() -> Iterator[RunningVm]:
    with vm_directory() as home, RunningVm(home) as vm:
        yield vm


def tool(running: RunningVm, cwd: Path, *arguments: str) -> tuple[int, bytes, str]:
    """Run one of tpm2-tools."""
    done = subprocess.run(
        arguments,
        cwd=cwd,
        env=os.environ | {"TPM2TOOLS_TCTI": running.vm.tcti},
        capture_output=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr.decode()


def test_nvread_by_the_owner_gives_the_whole_report(
    running: RunningVm, tmp_path: Path
) -> None:
    # tpm2_nvread authorizes with an HMAC session and reads in chunks of 1024.
    code, report, _ = tool(running, tmp_path, "tpm2_nvread", "-C", "o", "0x01400001")
    assert (code, report) == (0, running.vm.paravisor.hcl_report)
    assert report == (running.directory / "hcl-report.bin").read_bytes()
    assert len(report) == 2600


def test_nvread_gives_the_certificate_of_the_attestation_key(
    running: RunningVm, tmp_path: Path
) -> None:
    _, index, _ = tool(running, tmp_path, "tpm2_nvread", "-C", "o", "0x01C101D0")
    length = 4 + int.from_bytes(index[2:4])
    certificate = x509.load_der_x509_certificate(index[:length])
    assert len(index) == 4096
    assert not index[length:].strip(b"\0")
    assert certificate.issuer.rfc4514_string() == "CN=Global Virtual TPM CA - 01"
    assert certificate.subject.rfc4514_string().endswith(".TrustedVM.Azure.Microsoft")
    assert public_key(running, tmp_path) == certificate.public_key()


def public_key(running: RunningVm, cwd: Path) -> rsa.RSAPublicKey:
    """Read the attestation key from the TPM."""
    tool(running, cwd, "tpm2_readpublic", "-c", AK, "-f", "pem", "-o", "ak.pem")
    key = serialization.load_pem_public_key((cwd / "ak.pem").read_bytes())
    assert isinstance(key, rsa.RSAPublicKey)
    return key


def test_nvreadpublic_lists_the_hosted_indices(
    running: RunningVm, tmp_path: Path
) -> None:
    _, listing, _ = tool(running, tmp_path, "tpm2_nvreadpublic")
    assert b"0x1400001:" in listing
    assert b"size: 2600" in listing
    assert b"size: 4096" in listing
    attributes = b"authwrite|ownerread|authread|no_da|written|platformcreate"
    assert listing.count(attributes) == 2


@pytest.mark.parametrize(
    ("arguments", "rc"),
    [
        (("tpm2_nvundefine", "-C", "o", "0x01400001"), "0x149"),
        (("tpm2_nvwrite", "-C", "o", "-i", "eight", "0x01400001"), "0x149"),
        (("tpm2_nvdefine", "-C", "o", "-s", "64", "0x01400001"), "0x14C"),
        (("tpm2_nvread", "0x01400001"), "0x9A2"),  # by the index's own, secret, auth
        (("tpm2_nvundefine", "-C", "p", "0x01400001"), "0x9A2"),
    ],
)
def test_guest_cannot_change_the_report(
    running: RunningVm, tmp_path: Path, arguments: tuple[str, ...], rc: str
) -> None:
    (tmp_path / "eight").write_bytes(bytes(8))
    code, _, errors = tool(running, tmp_path, *arguments)
    assert code != 0
    assert f"({rc})" in errors


def test_quote_verifies_with_the_attestation_key(
    running: RunningVm, tmp_path: Path
) -> None:
    code, _, errors = tool(
        running,
        tmp_path,
        *("tpm2_quote", "-c", AK, "-l", "sha256:0,1,2,3,4,5,6,7"),
        *("-m", "message", "-s", "signature", "-f", "plain"),
    )
    assert code == 0, errors
    public_key(running, tmp_path).verify(
        (tmp_path / "signature").read_bytes(),
        (tmp_path / "message").read_bytes(),
        padding.PKCS1v15(),
        hashes.SHA256(),
    )


def test_attestation_key_has_openhcls_template(
    running: RunningVm, tmp_path: Path
) -> None:
    _, listing, _ = tool(running, tmp_path, "tpm2_readpublic", "-c", AK)
    attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda"
    assert f"value: {attributes}|restricted|sign".encode() in listing
    assert b"raw: 0x50472" in listing
    assert running.vm.paravisor.ak_public[:2] == (280).to_bytes(2)


def test_keys_cross_from_one_process_to_the_next_in_files(
    running: RunningVm, tmp_path: Path
) -> None:
    """Each tool is a process: it sees what it loaded itself, and nothing else."""
    steps = (
        ("tpm2_createprimary", "-C", "o", "-c", "parent.ctx"),
        ("tpm2_create", "-C", "parent.ctx", "-u", "k.pub", "-r", "k.priv"),
        ("tpm2_load", "-C", "parent.ctx", "-u", "k.pub", "-r", "k.priv", "-c", "k.ctx"),
        ("tpm2_rsaencrypt", "-c", "k.ctx", "-o", "cipher", "plain"),
        ("tpm2_rsadecrypt", "-c", "k.ctx", "-o", "again", "cipher"),
    )
    (tmp_path / "plain").write_bytes(b"across processes")
    for step in steps:
        code, _, errors = tool(running, tmp_path, *step)
        assert code == 0, errors
    assert (tmp_path / "again").read_bytes() == b"across processes"
    assert tool(running, tmp_path, "tpm2_getcap", "handles-transient")[1] == b""


def test_policy_session_crosses_from_one_process_to_the_next(
    running: RunningVm, tmp_path: Path
) -> None:
    steps = (
        ("tpm2_startauthsession", "-S", "s.ctx"),
        ("tpm2_policypcr", "-S", "s.ctx", "-l", "sha256:0,7", "-L", "policy"),
        ("tpm2_flushcontext", "s.ctx"),
    )
    for step in steps:
        code, _, errors = tool(running, tmp_path, *step)
        assert code == 0, errors
    assert len((tmp_path / "policy").read_bytes()) == 32
    for kind in ("handles-loaded-session", "handles-saved-session"):
        assert tool(running, tmp_path, "tpm2_getcap", kind)[1] == b""


def test_eventlog_replays_to_the_pcrs_in_both_banks(
    running: RunningVm, tmp_path: Path
) -> None:
    log = os.fspath(running.vm.tcg_log_path)
    code, replayed, errors = tool(running, tmp_path, "tpm2_eventlog", log)
    assert code == 0, errors
    assert "does not match" not in errors
    _, read, _ = tool(running, tmp_path, "tpm2_pcrread")
    assert pcrs_of(replayed) == {
        key: value for key, value in pcrs_of(read).items() if key[1] in LOGGED_PCRS
    }


LOGGED_PCRS = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14}


def pcrs_of(listing: bytes) -> dict[tuple[str, int], int]:
    """Read `BANK: INDEX : 0xVALUE` out of what both tools print."""
    pcrs: dict[tuple[str, int], int] = {}
    bank = ""
    _, marker, tail = listing.decode().partition("\npcrs:\n")
    for line in (tail if marker else listing.decode()).splitlines():
        name, _, value = (part.strip() for part in line.partition(":"))
        if name in ("sha1", "sha256"):
            bank = name
        elif name.isdigit():
            pcrs[bank, int(name)] = int(value, 16)
    return pcrs


def test_firmware_variables_say_that_secure_boot_is_on(
    running: RunningVm, tmp_path: Path
) -> None:
    log = os.fspath(running.vm.tcg_log_path)
    _, listing, _ = tool(running, tmp_path, "tpm2_eventlog", log)
    text = listing.decode()
    assert "UnicodeName: SecureBoot" in text
    assert 'UnicodeName: SecureBoot\n    VariableData: "01"' in text
    for kind in ("EV_S_CRTM_VERSION", "EV_EFI_BOOT_SERVICES_APPLICATION"):
        assert f"EventType: {kind}" in text


def test_password_session_reads_a_hosted_index(running: RunningVm) -> None:
    response = running.ask(
        tpm.Command(
            tpm.CC_NV_READ,
            (tpm.RH_OWNER, 0x01400001),
            (tpm.PASSWORD,),
            (16).to_bytes(2) + (1300).to_bytes(2),
        ).encode()
    )
    answer = tpm.parse_response(response)
    assert answer.parameters[2:] == running.vm.paravisor.hcl_report[1300:1316]
    assert answer.authorizations == (
        tpm.Authorization(0, b"", tpm.SESSION_CONTINUE, b""),
    )


@pytest.mark.parametrize(
    ("size", "offset", "rc"),
    [
        (1, 2600, tpm.RC_NV_RANGE),
        (1024, 1577, tpm.RC_NV_RANGE),
        (0, 2601, 0x2C4),  # TPM_RC_VALUE, parameter 2
        (1025, 0, 0x1C4),  # TPM_RC_VALUE, parameter 1
    ],
)
def test_read_beyond_a_hosted_index_is_refused(
    running: RunningVm, size: int, offset: int, rc: int
) -> None:
    command = tpm.Command(
        tpm.CC_NV_READ,
        (tpm.RH_OWNER, 0x01400001),
        (tpm.PASSWORD,),
        size.to_bytes(2) + offset.to_bytes(2),
    )
    assert code_of(running.ask(command.encode())) == rc


@pytest.mark.parametrize(
    ("command", "rc"),
    [
        (tpm.Command(tpm.CC_NV_READ, (tpm.RH_OWNER, 0x01400001), (), bytes(4)), 0x125),
        (
            tpm.Command(
                tpm.CC_NV_READ,
                (tpm.RH_OWNER, 0x01400001),
                (tpm.password(b"wrong"),),
                bytes(4),
            ),
            0x9A2,
        ),
        (
            tpm.Command(
                tpm.CC_NV_CERTIFY,
                (0x81000003, tpm.RH_OWNER, 0x01400001),
                (tpm.PASSWORD, tpm.PASSWORD),
                bytes(8),
            ),
            tpm.RC_COMMAND_CODE,
        ),
    ],
)
def test_hosted_index_refuses(
    running: RunningVm, command: tpm.Command, rc: int
) -> None:
    assert code_of(running.ask(command.encode())) == rc


def test_hosted_index_without_data_says_that_it_was_never_written(
    running: RunningVm,
) -> None:
    """As Azure does until the AK certificate is provisioned."""
    read = tpm.Command(
        tpm.CC_NV_READ, (tpm.RH_OWNER, 0x01C101D0), (tpm.PASSWORD,), bytes(4)
    )
    paravisor = running.vm.paravisor
    certificate = paravisor.ak_certificate
    running.call(lambda: paravisor.set_ak_certificate(None))
    try:
        assert code_of(running.ask(read.encode())) == tpm.RC_NV_UNINITIALIZED
    finally:
        running.call(lambda: paravisor.set_ak_certificate(certificate))
