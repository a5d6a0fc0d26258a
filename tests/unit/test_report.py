"""`skragent report` over files: what it prints, and the status that it ends with."""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from support.evidence import (
    PCRS,
    build_hcl,
    build_report,
    claims,
    quote_message,
    sign_attest,
)
from support.evidence_amd import NOW, TURIN_TCB, mint_chain, thim_answer
from support.odd_certificates import der, pem, with_version

from skragent import exit_codes
from skragent.cli.main import main
from skragent.cli.report import EXIT_FAILED

# As mint_chain makes its certificates.
VALID_FROM = NOW - timedelta(days=1)
VALID_UNTIL = NOW + timedelta(days=365)


class Folder:
    """Files as a person has them, all valid."""

    def __init__(self, path: Path) -> None:
        self.path = path
        chain = mint_chain()
        self.hcl = self.write("hcl.bin", build_hcl())
        self.bare = self.write("snp.bin", build_report())
        self.certs = self.write("chain.pem", chain.pem)
        self.roots = self.write("roots.pem", chain.root.public_bytes(Encoding.PEM))
        self.quote = self.write("quote.json", quote_file())

    def write(self, name: str, content: bytes) -> str:
        (self.path / name).write_bytes(content)
        return str(self.path / name)

    def verifiable(self) -> list[str]:
        return ["--hcl", self.hcl, "--certs", self.certs, "--roots", self.roots]


def quote_file(**changes: object) -> bytes:
    signed = sign_attest(quote_message(qualifying_data=b"fresh"))
    document: dict[str, object] = {
        "message": signed.message.hex(),
        "signature": signed.signature.hex(),
        "pcrs": [pcr.hex() for pcr in PCRS],
    }
    return json.dumps(document | changes).encode()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def report(*arguments: str) -> int:
    return main(["report", "--at", NOW.isoformat(), *arguments])


def outcomes(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, str]:
    report(*arguments, "--json")
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return {check["name"]: check["outcome"] for check in document["checks"]}


def test_a_report_with_everything_verifies(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(*folder.verifiable(), "--quote", folder.quote) == exit_codes.OK
    out = capsys.readouterr().out
    assert "\nok          the SNP report is signed with its certificate's key\n" in out
    assert "FAILED" not in out


def test_each_check_has_its_outcome(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcomes(capsys, *folder.verifiable()) == {
        "signature": "ok",
        "chain": "ok",
        "binding": "ok",
        "ak": "not checked",
        "quote": "not checked",
    }


def test_a_private_key_among_the_certificates_is_named(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    key = pem(b"key").replace(b"CERTIFICATE", b"PRIVATE KEY")
    path = folder.write("key.pem", key)
    assert report("--hcl", folder.hcl, "--certs", path) == exit_codes.UNAVAILABLE
    err = capsys.readouterr().err
    assert f"{path}: there is no certificate here, but a private key" in err
    assert "cryptography" not in err


@pytest.mark.parametrize("content", [b"!", b"", b"\x30\x03abc"])
def test_a_certificate_that_does_not_parse_quotes_no_manual(
    folder: Folder, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    path = folder.write("bad.pem", pem(content))
    assert report("--hcl", folder.hcl, "--certs", path) == exit_codes.UNAVAILABLE
    assert "https://" not in capsys.readouterr().err


def test_a_bare_report_has_nothing_to_be_bound(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--hcl", folder.bare, "--certs", folder.certs)
    found = outcomes(capsys, *arguments, "--roots", folder.roots)
    assert (found["signature"], found["binding"]) == ("ok", "not checked")


def test_a_report_without_certificates_is_not_verified(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report("--hcl", folder.hcl) == EXIT_FAILED
    assert "no --certs was given" in capsys.readouterr().out


def test_without_roots_only_amds_own_are_trusted(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report("--hcl", folder.hcl, "--certs", folder.certs) == EXIT_FAILED
    assert "[endorsements.root]" in capsys.readouterr().out


def test_certificates_may_come_in_several_files_of_der(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    chain = mint_chain()
    arguments = ["--hcl", folder.hcl, "--roots", folder.roots]
    for name in ("signer", "intermediate", "root"):
        der = getattr(chain, name).public_bytes(Encoding.DER)
        arguments += ["--certs", folder.write(f"{name}.der", der)]
    assert outcomes(capsys, *arguments)["chain"] == "ok"


def test_a_vcek_alone_verifies_the_signature_only(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    der = mint_chain().signer.public_bytes(Encoding.DER)
    vcek = folder.write("vcek.der", der)
    found = outcomes(capsys, "--hcl", folder.hcl, "--certs", vcek)
    assert (found["signature"], found["chain"]) == ("ok", "failed")


def test_certificates_may_be_an_answer_of_thim(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = json.dumps(thim_answer(mint_chain())).encode()
    thim = folder.write("thim.json", answer)
    arguments = ("--hcl", folder.hcl, "--certs", thim, "--roots", folder.roots)
    assert outcomes(capsys, *arguments)["chain"] == "ok"


def test_changed_runtime_data_fail_their_check_alone(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = folder.write("changed.bin", build_hcl().replace(b"ABAB", b"ABAC", 1))
    arguments = ("--hcl", changed, "--certs", folder.certs, "--roots", folder.roots)
    assert report(*arguments) == EXIT_FAILED
    assert "[evidence.binding]" in capsys.readouterr().out
    found = outcomes(capsys, *arguments)
    assert [name for name, outcome in found.items() if outcome == "failed"] == [
        "binding"
    ]


def test_a_quote_of_other_values_fails(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    zeros = folder.write("zeros.json", quote_file(pcrs=[bytes(32).hex()] * 8))
    found = outcomes(capsys, *folder.verifiable(), "--quote", zeros)
    assert found["quote"] == "failed"


def test_a_quote_beside_a_bare_report_leaves_it_unverified(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--hcl", folder.bare, "--certs", folder.certs]
    arguments += ["--roots", folder.roots, "--quote", folder.quote]
    assert report(*arguments) == EXIT_FAILED
    assert "a bare SNP report names no AK" in capsys.readouterr().out


def test_the_report_is_shown_decoded(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    report(*folder.verifiable(), "--quote", folder.quote, "--json")
    document = json.loads(capsys.readouterr().out)
    assert document["verified"] is True
    assert document["snp_report"]["chip"] == "Milan"
    assert document["snp_report"]["policy"]["debuggable"] is False
    assert document["runtime_data"]["vm_id"] == "26F8BC30-774E-4290-8E7A-535F3B672AEE"
    assert document["quote"]["qualifying_data"] == b"fresh".hex()
    assert document["quote"]["pcrs"]["7"] == PCRS[7].hex()


def test_a_version_5_report_of_turin_shows_what_is_new_in_it(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"version": 5, "mitigations": (1, 3)}
    data = build_report(cpuid=(0x1A, 2, 1), tcb=TURIN_TCB, **options)
    report("--hcl", folder.write("turin.bin", data), "--json")
    shown = json.loads(capsys.readouterr().out)["snp_report"]
    assert shown["chip"] == "Turin"
    assert shown["mitigations"] == {"current": "0x3", "launch": "0x1"}
    assert shown["tcb"]["reported"].startswith("fmc 1, ")


def test_an_unknown_chips_tcb_is_shown_raw(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    data = build_report(cpuid=(0x1B, 0, 0))
    report("--hcl", folder.write("new.bin", data))
    assert "its layout is the chip's" in capsys.readouterr().out


def test_what_a_terminal_would_obey_is_escaped(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    configuration = {"vmUniqueId": "\x1b[2J", "\x1b]0;": ["\x07"], "x": {}}
    raw = json.dumps(claims(**{"vm-configuration": configuration})).encode()
    report("--hcl", folder.write("odd.bin", build_hcl(raw)))
    out = capsys.readouterr().out
    assert "\\u001b[2J" in out
    assert "\x1b" not in out
    assert "\x07" not in out


@pytest.mark.parametrize(
    ("option", "content", "code"),
    [
        ("--hcl", b"neither", "evidence.malformed"),
        ("--hcl", build_hcl(report_type=4), "evidence.unsupported"),
        ("--certs", b"neither", "endorsements.malformed"),
        ("--certs", b"{}", "endorsements.malformed"),
        ("--quote", b"neither", "evidence.malformed"),
        ("--quote", quote_file(pcrs=[]), "evidence.malformed"),
        ("--quote", quote_file(message="zz"), "evidence.malformed"),
        ("--quote", b"[]", "evidence.malformed"),
        ("--roots", b"neither", "endorsements.malformed"),
        ("--hcl", bytes(2_000_000), "config.unreadable"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_errors_code(
    folder: Folder,
    capsys: pytest.CaptureFixture[str],
    option: str,
    content: bytes,
    code: str,
) -> None:
    bad = folder.write("bad", content)
    expected = (
        exit_codes.CONFIG if code.startswith("config.") else exit_codes.UNAVAILABLE
    )
    assert report(*folder.verifiable(), option, bad) == expected
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"skragent: {code}: {bad}: ")


def td_quote(version: int) -> bytes:
    """The header of a TD quote: version, ECDSA P-256, TEE type; then a body."""
    head = version.to_bytes(2, "little") + b"\x02\0" + b"\x81\0\0\0"
    return head.ljust(48, b"\0") + bytes(584)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (td_quote(4), "a TD quote (Intel TDX, version 4)"),
        (td_quote(5), "a TD quote (Intel TDX, version 5)"),
        (b"\x81\0\0\0" + bytes(1020), "a TDREPORT (Intel TDX)"),
        (b"\x81\0\x01\0" + bytes(1020), "a TDREPORT (Intel TDX)"),
    ],
)
def test_evidence_of_tdx_is_named(
    folder: Folder, capsys: pytest.CaptureFixture[str], content: bytes, name: str
) -> None:
    assert report("--hcl", folder.write("td.bin", content)) == exit_codes.UNAVAILABLE
    said = capsys.readouterr().err
    assert f"is {name}; only reports of AMD SEV-SNP are supported" in said
    assert said.startswith("skragent: evidence.unsupported: ")


@pytest.mark.parametrize("path", ["/nowhere/file", "/", "a\0b"])
def test_a_file_that_cannot_be_read_is_told(
    capsys: pytest.CaptureFixture[str], path: str
) -> None:
    assert report("--hcl", path) == exit_codes.CONFIG
    said = capsys.readouterr().err
    assert said.startswith("skragent: config.unreadable: ")
    assert "Give the path of a regular file" in said


def test_certificates_without_a_report_are_a_mistake(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        report("--certs", folder.certs)
    assert caught.value.code == exit_codes.USAGE
    assert "error: --certs and --quote need --hcl" in capsys.readouterr().err


def test_a_configuration_that_is_not_there_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report("--config", str(tmp_path / "none.toml")) == exit_codes.CONFIG
    assert "skragent: config.unreadable: " in capsys.readouterr().err


def test_a_configuration_with_invalid_utf_8_is_reported(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report("--config", folder.write("x.toml", b"\xff")) == exit_codes.CONFIG
    assert "skragent: config.syntax: " in capsys.readouterr().err


def test_help_says_what_the_status_means(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        report("--help")
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "exit status:" in out
    assert "--certs FILE" in out


def test_a_newer_version_is_decoded_and_the_report_says_so(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = folder.write("newer.bin", build_report(version=6))
    arguments = ["--hcl", newer, "--certs", folder.certs, "--roots", folder.roots]
    assert report(*arguments) == exit_codes.OK
    said = capsys.readouterr().out
    assert "note        the SNP report has version 6, decoded as version 5" in said
    assert report(*arguments, "--json") == exit_codes.OK
    document = json.loads(capsys.readouterr().out)
    assert document["snp_report"]["version"] == 6
    assert document["snp_report"]["decoded_as_version"] == 5
    assert "version 6, decoded as version 5" in document["notes"][0]


def test_a_report_of_a_known_version_has_no_note(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    report(*folder.verifiable(), "--json")
    assert json.loads(capsys.readouterr().out)["notes"] == []


def test_a_root_that_cannot_be_read_is_skipped_and_named(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    root = mint_chain().root
    path = folder.write("odd.pem", pem(with_version(root, 0x22)) + pem(der(root)))
    assert report("--hcl", folder.hcl, "--certs", folder.certs, "--roots", path) == 0
    note = f"note        {path}: certificate 1 of 2"
    assert note in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--hcl", "--certs", "--quote", "--roots"])
def test_a_fifo_is_refused_without_waiting(
    folder: Folder, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    os.mkfifo(folder.path / "fifo")
    fifo = str(folder.path / "fifo")
    assert report(*folder.verifiable(), option, fifo) == exit_codes.CONFIG
    said = capsys.readouterr().err
    assert f"config.unreadable: {fifo}: this is a FIFO, not a regular file\n" in said


@pytest.mark.parametrize(
    ("time", "outcome"),
    [
        (VALID_FROM - timedelta(seconds=1), "failed"),
        (VALID_FROM, "ok"),
        (VALID_UNTIL, "ok"),
        (VALID_UNTIL + timedelta(seconds=1), "failed"),
    ],
)
def test_archived_evidence_is_verified_as_of_a_given_time(
    folder: Folder,
    capsys: pytest.CaptureFixture[str],
    time: datetime,
    outcome: str,
) -> None:
    at = ("--at", time.isoformat())
    assert outcomes(capsys, *folder.verifiable(), *at)["chain"] == outcome


def test_evidence_whose_certificate_has_expired_by_then_does_not_verify(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    at = (VALID_UNTIL + timedelta(days=1)).isoformat()
    assert report(*folder.verifiable(), "--at", at) == EXIT_FAILED
    assert "[endorsements.lifetime]" in capsys.readouterr().out


def test_the_time_that_was_given_is_shown(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (*folder.verifiable(), "--at", "2026-03-01t14:00:00.5+02:00")
    report(*arguments)
    said = capsys.readouterr().out
    assert "note        certificates verified as of 2026-03-01T12:00:00" in said
    report(*arguments, "--json")
    document = json.loads(capsys.readouterr().out)
    assert document["checked_at"] == "2026-03-01T12:00:00.500000+00:00"


def test_without_a_time_no_note_is_about_it(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["report", "--hcl", folder.hcl])
    assert "validity is that of" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "1767225600",
        "2026-03-01",
        "2026-03-01T12:00:00",
        "2026-03-01 12:00:00Z",
        "2026-02-30T12:00:00Z",
        "2026-W09-7T12:00:00Z",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+23:59",
    ],
)
def test_a_time_in_another_form_is_a_wrong_command_line(
    folder: Folder, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        report(*folder.verifiable(), "--at", text)
    assert caught.value.code == exit_codes.USAGE
    assert "argument --at: must be a time as in RFC 3339" in capsys.readouterr().err
