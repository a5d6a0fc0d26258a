"""The vTPM's commands against swtpm, a real TPM 2.0."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from support.evidence_swtpm import Swtpm, run_swtpm
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG

from skragent.errors import (
    Disposition,
    TpmError,
    UnsupportedEvidenceError,
    UnwrapError,
)
from skragent.evidence.quote import verify_certification, verify_quote
from skragent.evidence.tpm import (
    NV_AK_CERTIFICATE,
    NV_HCL_REPORT,
    Scheme,
    Vtpm,
    WrappingKey,
)
from skragent.evidence.tpm_public import parse_tpm2b_public
from skragent.evidence.verification import verify_wrapping_key

pytestmark = pytest.mark.swtpm

UNIQUE = bytes(range(256))
SECRET = b"a transfer key has 32 bytes, so."

PADDINGS: dict[Scheme, Any] = {
    "rsaes": padding.PKCS1v15(),
    "oaep-sha1": padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None),
    "oaep-sha256": padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None),
    "oaep-sha384": padding.OAEP(padding.MGF1(hashes.SHA384()), hashes.SHA384(), None),
}


@pytest.fixture
def swtpm(tmp_path: Path) -> Iterator[Swtpm]:
    with run_swtpm(tmp_path) as running:
        running.create_ak()
        yield running


@pytest.fixture
def vtpm(swtpm: Swtpm) -> Iterator[Vtpm]:
    with Vtpm(swtpm.tcti) as opened:
        yield opened


def encrypt(key: WrappingKey, scheme: Scheme) -> bytes:
    public = rsa.RSAPublicNumbers(key.exponent, key.modulus).public_key()
    return public.encrypt(SECRET, PADDINGS[scheme])


def tpm_error(call: Any, *args: Any) -> TpmError:  # noqa: ANN401 - any method
    with pytest.raises(TpmError) as caught:
        call(*args)
    return caught.value


@pytest.mark.parametrize("size", [1, 1024, 2048])
def test_an_index_of_any_size_is_read_completely(swtpm: Swtpm, size: int) -> None:
    content = os.urandom(size)
    swtpm.define(NV_HCL_REPORT, content)
    with Vtpm(swtpm.tcti) as vtpm:
        assert vtpm.read_hcl_report() == content


def test_a_tpm_without_an_hcl_report_is_not_a_confidential_vm(vtpm: Vtpm) -> None:
    error = tpm_error(vtpm.read_hcl_report)
    assert error.code == "evidence.not_a_cvm"
    assert "DCasv5" in error.hint


def test_an_hcl_report_not_written_yet_is_worth_waiting_for(swtpm: Swtpm) -> None:
    swtpm.define(NV_HCL_REPORT, None, 100)
    with Vtpm(swtpm.tcti) as vtpm:
        error = tpm_error(vtpm.read_hcl_report)
    assert error.code == "evidence.hcl_not_provisioned"
    assert error.disposition is Disposition.RETRY
    assert error.message == (
        "NV index 0x01400001 of the TPM, for the HCL report, has no content (0x14a):"
        " this is not a SEV-SNP confidential VM, or it is not provisioned yet"
    )


def test_the_ak_certificate_is_given_as_read(swtpm: Swtpm) -> None:
    content = b"\x30\x03abc" + bytes(500)
    swtpm.define(NV_AK_CERTIFICATE, content)
    with Vtpm(swtpm.tcti) as vtpm:
        assert vtpm.read_ak_certificate() == content


@pytest.mark.parametrize("content", [None, bytes(64)])
def test_an_ak_certificate_not_written_is_not_provisioned(
    swtpm: Swtpm, content: bytes | None
) -> None:
    swtpm.define(NV_AK_CERTIFICATE, content, 64)
    with Vtpm(swtpm.tcti) as vtpm:
        error = tpm_error(vtpm.read_ak_certificate)
    assert error.code == "evidence.ak_cert_not_provisioned"
    assert error.disposition is Disposition.RETRY
    assert error.command == "TPM2_NV_Read"


def test_no_index_for_the_ak_certificate_is_not_provisioned(vtpm: Vtpm) -> None:
    error = tpm_error(vtpm.read_ak_certificate)
    assert error.code == "evidence.ak_cert_not_provisioned"
    assert error.disposition is Disposition.RETRY


def test_a_missing_ak_is_reported_with_the_command(tmp_path: Path) -> None:
    with run_swtpm(tmp_path) as bare, Vtpm(bare.tcti) as vtpm:
        error = tpm_error(vtpm.read_ak_public)
    assert (error.code, error.command) == ("evidence.tpm", "TPM2_ReadPublic")


def test_quote_and_certification_verify_with_the_ak(vtpm: Vtpm) -> None:
    ak, pcrs = parse_tpm2b_public(vtpm.read_ak_public()), vtpm.read_pcrs()
    key = vtpm.create_wrapping_key(pcrs, UNIQUE)
    public = parse_tpm2b_public(key.tpm2b_public)
    verify_quote(vtpm.quote(), ak.rsa, pcrs)
    verify_wrapping_key(public, pcrs)
    verify_certification(vtpm.certify(key), ak.rsa, public)


def test_the_wrapping_key_is_a_function_of_its_unique_field(vtpm: Vtpm) -> None:
    pcrs = vtpm.read_pcrs()
    first = vtpm.create_wrapping_key(pcrs, UNIQUE).modulus
    assert vtpm.create_wrapping_key(pcrs, UNIQUE).modulus == first
    assert vtpm.create_wrapping_key(pcrs, UNIQUE[::-1]).modulus != first


@pytest.mark.parametrize("scheme", list(PADDINGS))
def test_a_ciphertext_for_the_key_decrypts(vtpm: Vtpm, scheme: Scheme) -> None:
    key = vtpm.create_wrapping_key(vtpm.read_pcrs(), UNIQUE)
    assert vtpm.decrypt(key, encrypt(key, scheme), scheme) == SECRET


@pytest.mark.parametrize("scheme", list(PADDINGS))
@pytest.mark.parametrize("size", [255, 256, 257])
def test_a_ciphertext_for_another_key_does_not_decrypt(
    vtpm: Vtpm, scheme: Scheme, size: int
) -> None:
    key = vtpm.create_wrapping_key(vtpm.read_pcrs(), UNIQUE)
    with pytest.raises(UnwrapError) as caught:
        vtpm.decrypt(key, b"\x01" * size, scheme)
    assert caught.value.code == "unwrap"
    assert caught.value.message == "the TPM could not decrypt the wrapped key"


def test_a_ciphertext_for_another_scheme_does_not_decrypt(vtpm: Vtpm) -> None:
    key = vtpm.create_wrapping_key(vtpm.read_pcrs(), UNIQUE)
    with pytest.raises(UnwrapError):
        vtpm.decrypt(key, encrypt(key, "oaep-sha256"), "oaep-sha384")


def test_a_key_for_other_pcr_values_cannot_be_used(vtpm: Vtpm) -> None:
    key = vtpm.create_wrapping_key([bytes(32)] * 7 + [b"\x01" * 32], UNIQUE)
    error = tpm_error(vtpm.decrypt, key, encrypt(key, "rsaes"), "rsaes")
    assert error.code == "evidence.pcr_changed"


def test_a_pcr_that_changed_after_the_key_was_made_refuses_it(vtpm: Vtpm) -> None:
    key = vtpm.create_wrapping_key(vtpm.read_pcrs(), UNIQUE)
    vtpm._esys.pcr_event(ESYS_TR.PCR7, b"something that was not there before")
    error = tpm_error(vtpm.decrypt, key, encrypt(key, "oaep-sha256"), "oaep-sha256")
    assert error.code == "evidence.pcr_changed"


def test_neither_good_nor_bad_decryptions_leave_a_session(vtpm: Vtpm) -> None:
    """A TPM holds about three sessions: a fourth would fail if they stayed."""
    key = vtpm.create_wrapping_key(vtpm.read_pcrs(), UNIQUE)
    ciphertext = encrypt(key, "oaep-sha256")
    for _ in range(20):
        assert vtpm.decrypt(key, ciphertext, "oaep-sha256") == SECRET
        with pytest.raises(UnwrapError):
            vtpm.decrypt(key, b"\x01" * 256, "oaep-sha256")


def test_nothing_is_left_in_the_tpm(swtpm: Swtpm) -> None:
    """A TPM holds about three sessions: a fourth would fail if they stayed."""
    for _ in range(5):
        with Vtpm(swtpm.tcti) as vtpm:
            vtpm.create_wrapping_key(vtpm.read_pcrs(), UNIQUE)


def test_an_ak_that_does_not_sign_as_azures_is_unsupported(tmp_path: Path) -> None:
    with run_swtpm(tmp_path) as swtpm:
        swtpm.create_ak(TPM2_ALG.RSAPSS)
        with Vtpm(swtpm.tcti) as vtpm:
            with pytest.raises(UnsupportedEvidenceError) as caught:
                vtpm.quote()
            assert caught.value.code == "evidence.unsupported"


def test_a_certificates_index_that_may_not_be_read_is_reported(swtpm: Swtpm) -> None:
    swtpm.define(NV_AK_CERTIFICATE, b"\x30\x00", is_readable=False)
    with Vtpm(swtpm.tcti) as vtpm:
        error = tpm_error(vtpm.read_ak_certificate)
    assert (error.code, error.command) == ("evidence.tpm", "TPM2_NV_Read")


def test_a_tpm_without_a_sha256_bank_is_unsupported(tmp_path: Path) -> None:
    """Banks are allocated at the next start."""
    with run_swtpm(tmp_path) as swtpm:
        swtpm.allocate_only("sha1")
    with run_swtpm(tmp_path) as swtpm, Vtpm(swtpm.tcti) as vtpm:
        with pytest.raises(UnsupportedEvidenceError) as caught:
            vtpm.read_pcrs()
        assert caught.value.code == "evidence.unsupported"


@pytest.mark.parametrize(
    "tcti", ["device:/nowhere/tpmrm0", "swtpm:path=/nowhere/tpm.sock", "bogus:x"]
)
def test_a_tpm_that_is_not_there_is_unreachable(
    tcti: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TpmError) as caught, Vtpm(tcti):
        pass
    assert caught.value.code == "evidence.tpm.unreachable"
    assert "tss" in caught.value.hint
    assert capfd.readouterr().err == ""  # libtss2 is kept from writing there
