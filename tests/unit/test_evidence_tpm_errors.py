"""The meaning of response codes: observed codes and near misses of each rule."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import serialization
from support.evidence_amd import mint_certificate

from skragent.errors import Disposition
from skragent.evidence.ak_certificate import cut_padding, is_ak_certificate_provisioned
from skragent.evidence.tpm_errors import (
    is_about_ciphertext,
    is_missing_handle,
    is_not_written,
    is_wrong_password,
    make_tpm_error,
    strip_rc,
)

RETRY, REATTEST, SLOWLY = (
    Disposition.RETRY,
    Disposition.REATTEST,
    Disposition.RETRY_SLOWLY,
)


@pytest.mark.parametrize(
    ("rc", "code", "disposition"),
    [
        (0x99D, "evidence.pcr_changed", REATTEST),  # policy, of session 1
        (0x128, "evidence.pcr_changed", REATTEST),
        (0x921, "evidence.tpm.lockout", RETRY),
        (0x922, "evidence.tpm.busy", RETRY),  # TPM_RC_RETRY
        (0x908, "evidence.tpm.busy", RETRY),  # YIELDED
        (0x90A, "evidence.tpm.busy", RETRY),  # TESTING
        (0x909, "evidence.tpm.busy", RETRY),  # CANCELED
        (0x902, "evidence.tpm.busy", RETRY),  # OBJECT_MEMORY
        (0x903, "evidence.tpm.busy", RETRY),  # SESSION_MEMORY
        (0xB0902, "evidence.tpm.busy", RETRY),  # the same from a resource manager
        (0x14A, "evidence.tpm.busy", RETRY),  # an index not written yet
        (0x910, "evidence.tpm", REATTEST),  # the handle is gone
        (0xA000A, "evidence.tpm.unreachable", RETRY),  # TCTI: I/O
        (0x18B, "evidence.tpm", SLOWLY),  # handle
        (0x12F, "evidence.tpm", SLOWLY),  # authentication unavailable
        (0x70021, "evidence.tpm", SLOWLY),  # ESYS
        (0x60921, "evidence.tpm", SLOWLY),  # another layer's code in LOCKOUT's digits
    ],
)
def test_a_response_code_determines_the_error(
    rc: int, code: str, disposition: Disposition
) -> None:
    error = make_tpm_error("TPM2_NV_Read", rc, "text")
    assert (error.code, error.disposition) == (code, disposition)


def test_the_error_names_command_and_code() -> None:
    error = make_tpm_error("TPM2_NV_Read", 0x18B, "its handle")
    assert error.message == "TPM2_NV_Read failed: its handle (0x18b)"
    assert (error.command, error.rc) == ("TPM2_NV_Read", 0x18B)


@pytest.mark.parametrize(
    ("rc", "stripped"),
    [(0x18B, 0x8B), (0x99D, 0x9D), (0x1C4, 0x84), (0x2D5, 0x95), (0x922, 0x922)],
)
def test_a_format_one_code_loses_its_number(rc: int, stripped: int) -> None:
    assert strip_rc(rc) == stripped


@pytest.mark.parametrize("rc", [0x18B, 0x184, 0x28B, 0xB018B])
def test_a_missing_handle_is_recognised(rc: int) -> None:
    assert is_missing_handle(rc)


@pytest.mark.parametrize("rc", [0x1C4, 0x1CB, 0x98B, 0x14A, 0x6018B])
def test_other_codes_do_not_mean_a_missing_handle(rc: int) -> None:
    assert not is_missing_handle(rc)


def test_an_unwritten_index_is_recognised() -> None:
    assert is_not_written(0x14A)
    assert not is_not_written(0x14B)


@pytest.mark.parametrize("rc", [0x98E, 0x9A2, 0xB098E])
def test_a_wrong_password_is_recognised(rc: int) -> None:
    assert is_wrong_password(rc)


@pytest.mark.parametrize("rc", [0x149, 0x921, 0x18B, 0xA000A])
def test_other_codes_do_not_mean_a_wrong_password(rc: int) -> None:
    assert not is_wrong_password(rc)


@pytest.mark.parametrize("rc", [0x1C4, 0x1D5, 0x101])
def test_a_wrong_ciphertext_is_recognised(rc: int) -> None:
    assert is_about_ciphertext(rc)


@pytest.mark.parametrize("rc", [0x99D, 0x18B, 0x922, 0xA000A])
def test_other_codes_are_not_about_the_ciphertext(rc: int) -> None:
    assert not is_about_ciphertext(rc)


def der(issuer: str) -> bytes:
    certificate = mint_certificate("AK", issuer)
    return certificate.public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize("padding", [b"", bytes(100)])
@pytest.mark.parametrize(
    "issuer", ["Global Virtual TPM CA - 01", "Microsoft Azure Trusted VM RSA CA 01"]
)
def test_a_certificate_of_azures_ca_is_provisioned(issuer: str, padding: bytes) -> None:
    data = der(issuer) + padding
    assert is_ak_certificate_provisioned(data)


def test_the_placeholders_issuer_is_not_provisioned_yet() -> None:
    data = der("MICROSOFT AZURE TRUSTED VM RSA 2048") + bytes(100)
    assert not is_ak_certificate_provisioned(data)


@pytest.mark.parametrize("data", [b"", bytes(4096), b"\xff" * 4096])
def test_an_empty_index_is_not_provisioned_yet(data: bytes) -> None:
    assert not is_ak_certificate_provisioned(data)


def test_a_log_that_does_not_parse_is_left_out() -> None:
    assert is_ak_certificate_provisioned(b"\x30\x03abc")


@pytest.mark.parametrize(
    ("data", "cut"),
    [
        (b"\x30\x02ab\0\0", b"\x30\x02ab"),
        (b"\x30\x81\x02ab\0", b"\x30\x81\x02ab"),
        (b"\x30\x82\x00\x02ab\0", b"\x30\x82\x00\x02ab"),
        (b"\x30\x80ab", b"\x30\x80ab"),
        (b"\x30\x83ab", b"\x30\x83ab"),
        (b"\x31\x00ab", b"\x31\x00ab"),
        (b"\x30", b"\x30"),
    ],
)
def test_der_is_cut_off_its_padding(data: bytes, cut: bytes) -> None:
    assert cut_padding(data) == cut
