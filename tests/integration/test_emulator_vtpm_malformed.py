"""Arbitrary bytes as commands: each gets a response, and the TPM keeps serving."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.vtpm import GET_RANDOM, RunningVm, code_of, read_response, vm_directory

from skragent.emulator.tpm import messages as tpm

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.swtpm

# Handles that mean something here, so that commands get further than their first.
HANDLES = st.sampled_from(
    [
        *(tpm.RH_OWNER, tpm.RH_NULL, tpm.RH_ENDORSEMENT, tpm.RS_PW),
        *(0x80FFFFFF, 0x80000000, 0x02000000, 0x03000000),
        *(0x81000003, 0x01400001, 0x01C101D0, 0x01400002, 7),
    ]
)
# All but those that make a key (slow) and those that would end or re-make the TPM.
CODES = st.sampled_from(
    sorted(
        set(range(0x11F, 0x198))
        - {tpm.CC_CREATE_PRIMARY, tpm.CC_SHUTDOWN, 0x126, 0x124, 0x125, 0x153, 0x191}
    )
)


@pytest.fixture(scope="module")
def running() -> Iterator[RunningVm]:
    with vm_directory() as home, RunningVm(home) as vm:
        yield vm


@given(
    code=CODES,
    handles=st.lists(HANDLES, max_size=3),
    password=st.booleans(),
    parameters=st.binary(max_size=64),
)
def test_well_framed_nonsense_is_answered(
    running: RunningVm,
    code: int,
    handles: list[int],
    *,
    password: bool,
    parameters: bytes,
) -> None:
    authorizations = (tpm.PASSWORD,) if password else ()
    command = tpm.Command(code, tuple(handles), authorizations, parameters)
    assert len(running.ask(command.encode())) >= 10
    assert code_of(running.ask(GET_RANDOM)) == tpm.RC_SUCCESS


@settings(max_examples=60)
@given(garbage=st.binary(min_size=1, max_size=64))
def test_garbage_is_answered_or_the_connection_closed(
    running: RunningVm, garbage: bytes
) -> None:
    with running.connect() as connection:
        connection.sendall(garbage)
        connection.shutdown(1)
        while answer := connection.recv(4096):
            assert code_of(answer) != tpm.RC_SUCCESS
    assert code_of(running.ask(GET_RANDOM)) == tpm.RC_SUCCESS


@pytest.mark.parametrize("size", [0, 9, 4097, 0xFFFFFFFF])
def test_impossible_size_is_refused_and_the_connection_closed(
    running: RunningVm, size: int
) -> None:
    with running.connect() as connection:
        connection.sendall(struct.pack(">HII", tpm.ST_NO_SESSIONS, size, 0x17B))
        assert code_of(read_response(connection)) == tpm.RC_COMMAND_SIZE
        assert connection.recv(10) == b""


def test_largest_command_reaches_the_tpm(running: RunningVm) -> None:
    command = tpm.Command(0x17B, parameters=bytes(4096 - 10)).encode()
    assert len(command) == 4096
    assert code_of(running.ask(command)) == 0x095  # TPM_RC_SIZE: swtpm's own answer


@pytest.mark.parametrize("code", ["tpm.sock", "tpm.sock.ctrl"])
def test_client_without_commands_is_ignored(running: RunningVm, code: str) -> None:
    """The TCTI begins in this way: it connects and closes."""
    running.connect(code).close()
    assert code_of(running.ask(GET_RANDOM)) == tpm.RC_SUCCESS
