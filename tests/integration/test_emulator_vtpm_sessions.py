"""Hosted indices read within sessions of every kind, by tpm2-pytss."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from support.vtpm import RunningVm, vm_directory
from tpm2_pytss import ESAPI, TSS2_Exception
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_SE, TPMA_SESSION
from tpm2_pytss.types import (
    TPMT_SYM_DEF,
    TPMU_SYM_KEY_BITS,
    TPMU_SYM_MODE,
)

from skragent.emulator.tpm import messages as tpm

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.swtpm

REPORT = 0x01400001
SRK = 0x81000001


@pytest.fixture(scope="module")
def running() -> Iterator[RunningVm]:
    with vm_directory() as home, RunningVm(home) as vm:
        yield vm


@pytest.fixture
def esapi(running: RunningVm, monkeypatch: pytest.MonkeyPatch) -> Iterator[ESAPI]:
    monkeypatch.setitem(os.environ, "TSS2_LOG", "all+NONE")
    with ESAPI(running.vm.tcti) as one:
        yield one


def start_session(esapi: ESAPI, **changes: Any) -> ESYS_TR:  # noqa: ANN401 - of the call
    arguments: dict[str, Any] = {
        "tpm_key": ESYS_TR.NONE,
        "bind": ESYS_TR.NONE,
        "session_type": TPM2_SE.HMAC,
        "symmetric": TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL),
        "auth_hash": TPM2_ALG.SHA256,
    }
    return esapi.start_auth_session(**arguments | changes)


def read(esapi: ESAPI, session: ESYS_TR, size: int = 64, offset: int = 0) -> bytes:
    index = esapi.tr_from_tpmpublic(REPORT)
    data = esapi.nv_read(
        index, size, offset, auth_handle=ESYS_TR.OWNER, session1=session
    )
    return bytes(data)


def refusal(esapi: ESAPI, session: ESYS_TR) -> int:
    with pytest.raises(TSS2_Exception) as caught:
        read(esapi, session)
    rc: int = caught.value.rc
    return rc


@pytest.mark.parametrize("algorithm", [TPM2_ALG.SHA1, TPM2_ALG.SHA256, TPM2_ALG.SHA384])
def test_hmac_session_reads_again_and_again(
    running: RunningVm, esapi: ESAPI, algorithm: int
) -> None:
    """Its nonces stay in step with the real TPM, which then serves it too."""
    session = start_session(esapi, auth_hash=algorithm)
    report = running.vm.paravisor.hcl_report
    chunks = b"".join(
        read(esapi, session, min(1024, 2600 - offset), offset)
        for offset in range(0, 2600, 1024)
    )
    assert chunks == report
    esapi.pcr_event(ESYS_TR.PCR16, b"a command of the real TPM's", session1=session)
    assert read(esapi, session) == report[:64]
    esapi.flush_context(session)


def test_session_that_is_not_continued_has_ended_in_the_tpm_too(
    running: RunningVm, esapi: ESAPI
) -> None:
    for _ in range(70):  # more than the TPM can have at once
        session = start_session(esapi)
        esapi.trsess_set_attributes(session, 0, TPMA_SESSION.CONTINUESESSION)
        assert read(esapi, session) == running.vm.paravisor.hcl_report[:64]


def test_failed_read_leaves_the_session_in_step(
    running: RunningVm, esapi: ESAPI
) -> None:
    session = start_session(esapi)
    with pytest.raises(TSS2_Exception) as caught:
        read(esapi, session, 16, 2599)
    assert caught.value.rc == tpm.RC_NV_RANGE
    assert read(esapi, session) == running.vm.paravisor.hcl_report[:64]
    esapi.flush_context(session)


def test_salted_session_is_refused_by_name(esapi: ESAPI) -> None:
    key = esapi.tr_from_tpmpublic(SRK)
    session = start_session(esapi, tpm_key=key)
    assert refusal(esapi, session) == tpm.RC_AUTH_TYPE
    esapi.flush_context(session)


def test_session_that_encrypts_is_refused_by_name(esapi: ESAPI) -> None:
    aes = TPMT_SYM_DEF(
        algorithm=TPM2_ALG.AES,
        keyBits=TPMU_SYM_KEY_BITS(aes=128),
        mode=TPMU_SYM_MODE(aes=TPM2_ALG.CFB),
    )
    session = start_session(esapi, symmetric=aes)
    esapi.trsess_set_attributes(session, TPMA_SESSION.ENCRYPT)
    assert refusal(esapi, session) == 0x982  # TPM_RC_ATTRIBUTES, session 1
    esapi.flush_context(session)


def test_index_is_listed_with_its_real_size(esapi: ESAPI) -> None:
    public, name = esapi.nv_read_public(esapi.tr_from_tpmpublic(REPORT))
    assert public.nvPublic.dataSize == 2600
    digest = hashlib.sha256(public.nvPublic.marshal()).digest()
    assert bytes(name) == b"\x00\x0b" + digest


def test_report_read_through_the_tpm_is_bound_and_signed(
    running: RunningVm, esapi: ESAPI
) -> None:
    """Hash, key and signature, by plain cryptography and nothing of ours."""
    session = start_session(esapi)
    report = b"".join(
        read(esapi, session, min(1024, 2600 - offset), offset)
        for offset in range(0, 2600, 1024)
    )
    esapi.flush_context(session)
    hardware = report[0x20 : 0x20 + 1184]
    length = int.from_bytes(report[0x4D0:0x4D4], "little")
    claims = report[0x4D4 : 0x4D4 + length]
    assert hardware[0x50:0x90] == hashlib.sha256(claims).digest() + bytes(32)

    key = running.vm.paravisor.ak_public[-256:]
    assert json.loads(claims)["keys"][0]["n"] == to_base64url(key)
    assert json.loads(claims)["vm-configuration"]["vmUniqueId"] == running.vm.vm_id

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the serial number 0, as AMD's
        vcek = x509.load_pem_x509_certificate(
            running.vm.thim_certification()["vcekCert"].encode()
        )
    r, s = (
        int.from_bytes(hardware[at : at + 72], "little") for at in (0x2A0, 0x2A0 + 72)
    )
    public_key = vcek.public_key()
    assert isinstance(public_key, ec.EllipticCurvePublicKey)
    public_key.verify(
        encode_dss_signature(r, s), hardware[:0x2A0], ec.ECDSA(hashes.SHA384())
    )


def to_base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
