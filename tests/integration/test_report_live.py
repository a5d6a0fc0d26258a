"""`skragent report` on a machine: a vTPM (swtpm) and an IMDS (a local server)."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from support.evidence import build_hcl, claims
from support.evidence_amd import NOW, mint_chain, thim_answer
from support.evidence_http import Server, run_server
from support.evidence_swtpm import Swtpm, run_swtpm

from skragent import exit_codes
from skragent.cli.main import main
from skragent.cli.report import EXIT_FAILED
from skragent.evidence.tpm import NV_HCL_REPORT, Vtpm
from skragent.evidence.tpm_public import parse_tpm2b_public

pytestmark = pytest.mark.swtpm


@dataclass
class Machine:
    """Its parts, and the configuration that names them."""

    tpm: Swtpm
    imds: Server
    config: Path

    def report(self, *arguments: str) -> int:
        at = ("--at", NOW.isoformat())
        return main(["report", "--config", str(self.config), *at, *arguments])


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    roots = tmp_path / "roots.pem"
    roots.write_bytes(mint_chain().root.public_bytes(Encoding.PEM))
    state = tmp_path / "tpm"
    state.mkdir()
    with run_swtpm(state) as tpm, run_server() as imds:
        tpm.create_ak()
        imds.set(body=json.dumps(thim_answer(mint_chain())).encode())
        config = tmp_path / "skragent.toml"
        config.write_text(
            f'vtpm.tcti = "{tpm.tcti}"\n'
            f'imds.endpoint = "{imds.origin}"\n'
            f'trust.amd_roots = "{roots}"\n'
            '[keys.one]\nvault = "https://vault.example"\n'
        )
        yield Machine(tpm, imds, config)


def runtime_data(modulus: int) -> bytes:
    """Claims with this AK, short enough for an index of swtpm's 2048 bytes."""
    n = base64.urlsafe_b64encode(modulus.to_bytes(256, "big")).decode().rstrip("=")
    ak = {"kid": "HCLAkPub", "kty": "RSA", "e": "AQAB", "n": n}
    return json.dumps(claims(keys=[ak], **{"user-data": None})).encode()


def install_report(machine: Machine, modulus: int | None = None) -> None:
    """Have the vTPM hold a report that vouches for its own AK, or for another."""
    with Vtpm(machine.tpm.tcti) as vtpm:
        own = parse_tpm2b_public(vtpm.read_ak_public()).rsa.modulus
    data = build_hcl(runtime_data(modulus or own), padding_bytes=0)
    machine.tpm.define(NV_HCL_REPORT, data)


def test_a_sound_machine_verifies_whole(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    install_report(machine)
    assert machine.report("--json") == exit_codes.OK
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert {check["outcome"] for check in document["checks"]} == {"ok"}


def test_a_report_of_another_vtpms_ak_fails(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    install_report(machine, int.from_bytes(hashlib.sha256().digest() * 8, "big") | 1)
    assert machine.report() == EXIT_FAILED
    assert "[evidence.ak_mismatch]" in capsys.readouterr().out


def test_a_saved_report_verifies_again(
    machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install_report(machine)
    archive = tmp_path / "archive of today"
    assert machine.report("--json", "--save", str(archive)) == exit_codes.OK
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    program, *arguments = shlex.split(document["verify_archive"])
    assert program == "skragent"
    assert main([*arguments, "--json"]) == exit_codes.OK
    again: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert again["verified"]
    for part in ("snp_report", "runtime_data", "certificates", "quote"):
        assert again[part] == document[part]
    assert {c["name"]: c["outcome"] for c in again["checks"]} == {
        **{c["name"]: "ok" for c in document["checks"]},
        "ak": "not checked",
    }
    assert stat.S_IMODE(archive.stat().st_mode) == 0o700
    modes = {f.name: stat.S_IMODE(f.stat().st_mode) for f in archive.iterdir()}
    names = ("hcl-report.bin", "certificates.pem", "tpm-quote.json")
    assert modes == dict.fromkeys(names, 0o600)


def test_a_report_is_saved_without_certificates_if_there_are_none(
    machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install_report(machine)
    machine.imds.set("503 Service Unavailable")
    archive = tmp_path / "archive"
    assert machine.report("--save", str(archive)) == EXIT_FAILED
    files = {file.name for file in archive.iterdir()}
    assert files == {"hcl-report.bin", "tpm-quote.json"}
    assert f"the archive is in {archive}. Verify it with: " in capsys.readouterr().out


def test_a_directory_that_exists_is_not_written_to(
    machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install_report(machine)
    archive = tmp_path / "archive"
    archive.mkdir()
    assert machine.report("--save", str(archive)) == exit_codes.CANTCREAT
    assert f"skragent: output: {archive}: File exists" in capsys.readouterr().err
    assert not list(archive.iterdir())


def test_a_disk_that_is_full_leaves_nothing(
    machine: Machine,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install_report(machine)
    archive = tmp_path / "archive"
    answers = [None, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))]

    def fsync(fd: int) -> None:
        assert fd > 0
        if error := answers.pop(0):
            raise error

    monkeypatch.setattr(os, "fsync", fsync)
    assert machine.report("--save", str(archive)) == exit_codes.CANTCREAT
    assert "certificates.pem: No space left on device" in capsys.readouterr().err
    assert not archive.exists()


def test_an_imds_that_is_out_leaves_the_report_shown_and_unverified(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    install_report(machine)
    machine.imds.set("503 Service Unavailable")
    assert machine.report() == EXIT_FAILED
    out = capsys.readouterr().out
    assert "measurement" in out
    assert "not checked the SNP report is signed" in out
    assert "transport.server" in out


def test_a_machine_other_than_a_confidential_vm_is_reported_with_a_hint(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert machine.report() == exit_codes.UNAVAILABLE
    err = capsys.readouterr().err
    assert err.startswith("skragent: evidence.not_a_cvm: ")
    assert "DCasv5" in err
