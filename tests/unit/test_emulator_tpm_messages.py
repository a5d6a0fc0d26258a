"""TPM commands and responses are encoded and parsed."""

from __future__ import annotations

import pytest

from skragent.emulator.tpm import messages as tpm

KNOWN = {
    tpm.CC_NV_READ: tpm.CommandAttributes(2, returns_handle=False, flushes=False),
    tpm.CC_GET_CAPABILITY: tpm.CommandAttributes(
        0, returns_handle=False, flushes=False
    ),
}
READ = tpm.Command(
    tpm.CC_NV_READ,
    (tpm.RH_OWNER, 0x01400001),
    (tpm.Authorization(0x02000000, b"nonce", 1, b"hmac"), tpm.PASSWORD),
    b"parameters",
)


def refusal(raw: bytes) -> int:
    with pytest.raises(tpm.TpmRefusal) as caught:
        tpm.parse_command(raw, KNOWN)
    return caught.value.rc


def test_command_is_read_as_it_was_written() -> None:
    assert tpm.parse_command(READ.encode(), KNOWN) == READ


def test_attributes_have_the_number_of_handles() -> None:
    # TPMA_CC of TPM2_CreatePrimary, and of TPM2_SequenceComplete.
    assert tpm.CommandAttributes.parse(0x12000131) == tpm.CommandAttributes(
        1, returns_handle=True, flushes=False
    )
    assert tpm.CommandAttributes.parse(0x0300013E) == tpm.CommandAttributes(
        1, returns_handle=False, flushes=True
    )


def test_unknown_command_is_refused() -> None:
    assert refusal(tpm.Command(0x1FF).encode()) == tpm.RC_COMMAND_CODE


def test_unknown_tag_is_refused() -> None:
    assert refusal(b"\x00\xc1" + READ.encode()[2:]) == tpm.RC_BAD_TAG


def test_size_that_is_not_the_commands_is_refused() -> None:
    assert refusal(READ.encode() + b"\0") == tpm.RC_COMMAND_SIZE


def resized(raw: bytes) -> bytes:
    return raw[:2] + len(raw).to_bytes(4) + raw[6:]


def test_missing_handles_are_refused() -> None:
    assert refusal(resized(READ.encode()[:17])) == tpm.RC_INSUFFICIENT


def test_cut_authorization_area_is_refused() -> None:
    assert refusal(resized(READ.encode()[:30])) == tpm.RC_AUTHSIZE


def test_empty_authorization_area_is_refused() -> None:
    assert refusal(resized(READ.encode()[:18] + bytes(4))) == tpm.RC_AUTHSIZE


def test_response_is_read_as_it_was_written() -> None:
    response = tpm.Response(
        0, 0x80000000, b"out", (tpm.Authorization(0, b"nonce", 1, b"hmac"),)
    )
    assert tpm.parse_response(response.encode(), has_handle=True) == response


def test_refusals_name_the_handle_session_or_parameter() -> None:
    assert tpm.at_parameter(tpm.RC_HANDLE, 1) == 0x1CB
    assert tpm.at_session(tpm.RC_BAD_AUTH, 1) == 0x9A2
