"""`skragent report` on a machine: a vTPM (swtpm) and an IMDS (a local server)."""

from __future__ import annotations

import base64
import hashlib
import json
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


def test_a_machine_that_is_no_confidential_vm_is_told_with_a_hint(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert machine.report() == exit_codes.UNAVAILABLE
    err = capsys.readouterr().err
    assert err.startswith("skragent: evidence.not_a_cvm: ")
    assert "DCasv5" in err
