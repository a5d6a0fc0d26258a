"""Every input is parsed as a TPM command or refused."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from skragent.emulator.tpm import messages as tpm

ATTRIBUTES = st.builds(
    tpm.CommandAttributes,
    handles=st.integers(0, 3),
    returns_handle=st.booleans(),
    flushes=st.booleans(),
)
AUTHORIZATIONS = st.lists(
    st.builds(
        tpm.Authorization,
        handle=st.integers(1, 2**32 - 1),
        nonce=st.binary(max_size=64),
        attributes=st.integers(0, 255),
        hmac=st.binary(max_size=64),
    ),
    max_size=3,
).map(tuple)


@given(body=st.binary(max_size=200), tagged=st.booleans(), attributes=ATTRIBUTES)
def test_any_bytes_are_a_command_or_a_refusal(
    body: bytes, attributes: tpm.CommandAttributes, *, tagged: bool
) -> None:
    tag = tpm.ST_SESSIONS if tagged else tpm.ST_NO_SESSIONS
    head = tag.to_bytes(2) + (10 + len(body)).to_bytes(4) + (0x131).to_bytes(4)
    command = parse(head + body, {0x131: attributes})
    if isinstance(command, int):
        assert command in {tpm.RC_INSUFFICIENT, tpm.RC_AUTHSIZE}
    else:
        assert command.encode() == head + body


def parse(raw: bytes, known: dict[int, tpm.CommandAttributes]) -> tpm.Command | int:
    """Return the command, or the code of its refusal."""
    try:
        return tpm.parse_command(raw, known)
    except tpm.TpmRefusal as refusal:
        return refusal.rc


@given(raw=st.binary(max_size=40))
def test_any_bytes_at_all_are_a_command_or_a_refusal(raw: bytes) -> None:
    refusals = {tpm.RC_COMMAND_SIZE, tpm.RC_COMMAND_CODE, tpm.RC_BAD_TAG}
    assert parse(raw, {}) in refusals


@given(
    handles=st.lists(st.integers(0, 2**32 - 1), max_size=3).map(tuple),
    authorizations=AUTHORIZATIONS,
    parameters=st.binary(max_size=100),
)
def test_every_command_is_read_as_it_was_written(
    handles: tuple[int, ...],
    authorizations: tuple[tpm.Authorization, ...],
    parameters: bytes,
) -> None:
    command = tpm.Command(0x131, handles, authorizations, parameters)
    attributes = tpm.CommandAttributes(
        len(handles), returns_handle=False, flushes=False
    )
    assert tpm.parse_command(command.encode(), {0x131: attributes}) == command
