"""Several clients of one vTPM: each sees only its own objects."""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

import pytest
from support.deadlines import DEADLINE_SECONDS
from support.vtpm import (
    GET_RANDOM,
    RunningVm,
    code_of,
    read_response,
    vm_directory,
)

from skragent.emulator.tpm import messages as tpm

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

pytestmark = pytest.mark.swtpm


@pytest.fixture(scope="module")
def running() -> Iterator[RunningVm]:
    with vm_directory() as home, RunningVm(home) as vm:
        yield vm


def tell(client: subprocess.Popen[str], line: str = "") -> str:
    """Send a client a line (or none) and wait for its output."""
    assert client.stdin is not None
    assert client.stdout is not None
    if line:
        client.stdin.write(f"{line}\n")
        client.stdin.flush()
    return client.stdout.readline().strip()


def end(client: subprocess.Popen[str]) -> None:
    client.kill()
    client.communicate(timeout=DEADLINE_SECONDS)


def loaded_in_the_tpm(running: RunningVm, kind: int) -> list[int]:
    """Return swtpm's own handles of a type."""
    question = tpm.Command(
        tpm.CC_GET_CAPABILITY,
        parameters=struct.pack(">III", tpm.CAP_HANDLES, kind << 24, 64),
    )
    raw = running.call(lambda: running.vm.vtpm.transmit(question.encode()))
    return [one for (one,) in struct.iter_unpack(">I", raw[19:])]


@pytest.mark.parametrize("number", [2, 8])
def test_clients_with_three_keys_and_a_session_do_not_interfere(
    running: RunningVm, number: int
) -> None:
    clients = [running.client() for _ in range(number)]
    try:
        assert [tell(one) for one in clients] == ["loaded"] * number
        for turn in ("first", "second", "third"):
            # All write before any is heard: their commands interleave.
            for one in clients:
                assert one.stdin is not None
                one.stdin.write(f"{turn}\n")
                one.stdin.flush()
            assert [tell(one) for one in clients] == ["used"] * number
    finally:
        for one in clients:
            end(one)


def test_objects_of_a_killed_client_are_flushed(running: RunningVm) -> None:
    client = running.client()
    assert tell(client) == "loaded"
    assert len(loaded_in_the_tpm(running, tpm.HT_TRANSIENT)) == 3
    end(client)
    # The process has been reaped; the loop has its pidfd to look at in this very turn.
    running.ask(GET_RANDOM)
    running.ask(GET_RANDOM)
    for kind in (tpm.HT_TRANSIENT, tpm.HT_HMAC_SESSION, tpm.HT_POLICY_SESSION):
        assert loaded_in_the_tpm(running, kind) == []


def test_client_sees_only_its_own_objects(running: RunningVm) -> None:
    other = running.client()
    try:
        assert tell(other) == "loaded"
        mine = load_key(running)
        assert own_objects(running) == [mine]
        assert flush(running, mine) == tpm.RC_SUCCESS
        assert own_objects(running) == []
        assert tell(other, "still there") == "used"
    finally:
        end(other)


def load_key(running: RunningVm, seed: bytes = b"") -> int:
    """Load a keyed hash as this process: the cheapest object there is."""
    public = struct.pack(">HHI", 0x0008, tpm.ALG_SHA256, 0x00040072)
    public += tpm.sized(b"") + struct.pack(">HH", 0x0005, tpm.ALG_SHA256)
    public += tpm.sized(seed)
    command = tpm.Command(
        tpm.CC_CREATE_PRIMARY,
        (tpm.RH_NULL,),
        (tpm.PASSWORD,),
        tpm.sized(bytes(4)) + tpm.sized(public) + bytes(6),
    )
    answer = tpm.parse_response(running.ask(command.encode()), has_handle=True)
    assert answer.rc == tpm.RC_SUCCESS
    assert answer.handle is not None
    return answer.handle


def flush(running: RunningVm, handle: int) -> int:
    command = tpm.Command(tpm.CC_FLUSH_CONTEXT, parameters=handle.to_bytes(4))
    return code_of(running.ask(command.encode()))


def own_objects(running: RunningVm) -> list[int]:
    command = tpm.Command(
        tpm.CC_GET_CAPABILITY,
        parameters=struct.pack(">III", tpm.CAP_HANDLES, 0x80000000, 64),
    )
    return [
        one for (one,) in struct.iter_unpack(">I", running.ask(command.encode())[19:])
    ]


def test_handles_are_virtual_like_the_kernels(running: RunningVm) -> None:
    handles = [load_key(running, bytes([number])) for number in range(5)]
    assert handles == [0x80FFFFFF - number for number in range(5)]
    assert own_objects(running) == sorted(handles)
    names = {
        running.ask(tpm.Command(tpm.CC_READ_PUBLIC, (handle,)).encode())
        for handle in handles
    }
    assert len(names) == 5  # more than the TPM's three slots, each its own key
    assert [flush(running, handle) for handle in handles] == [0] * 5


def test_too_many_objects_are_refused(running: RunningVm) -> None:
    handles = [load_key(running) for _ in range(64)]
    command = tpm.Command(
        tpm.CC_CREATE_PRIMARY, (tpm.RH_NULL,), (tpm.PASSWORD,), bytes(12)
    )
    assert code_of(running.ask(command.encode())) == tpm.RC_OBJECT_MEMORY
    assert {flush(running, handle) for handle in handles} == {0}


def test_physical_handle_of_another_is_refused(running: RunningVm) -> None:
    other = running.client()
    try:
        assert tell(other) == "loaded"
        (physical, *_) = loaded_in_the_tpm(running, tpm.HT_TRANSIENT)
        read = tpm.Command(tpm.CC_READ_PUBLIC, (physical,))
        assert code_of(running.ask(read.encode())) == tpm.RC_REFERENCE_H0
        assert flush(running, physical) == 0x1CB
    finally:
        end(other)


def test_session_of_another_is_refused(running: RunningVm) -> None:
    other = running.client()
    try:
        assert tell(other) == "loaded"
        (session,) = loaded_in_the_tpm(running, tpm.HT_HMAC_SESSION)
        stolen = tpm.Authorization(session, bytes(16), tpm.SESSION_CONTINUE, b"")
        use = tpm.Command(tpm.CC_PCR_EXTEND, (16,), (stolen,), bytes(4))
        assert code_of(running.ask(use.encode())) == tpm.RC_REFERENCE_S0
        assert flush(running, session) == 0x1CB
        assert tell(other, "unharmed") == "used"
    finally:
        end(other)


def test_objects_that_the_owner_cleared_are_refused(running: RunningVm) -> None:
    """TPM2_ChangeEPS and its like flush what others have: a handle must not dangle."""
    mine = load_key(running)
    physical = loaded_in_the_tpm(running, tpm.HT_TRANSIENT)
    behind_the_front = tpm.Command(
        tpm.CC_FLUSH_CONTEXT, parameters=physical[0].to_bytes(4)
    )
    running.call(lambda: running.vm.vtpm.transmit(behind_the_front.encode()))
    read = tpm.Command(tpm.CC_READ_PUBLIC, (mine,)).encode()
    assert code_of(running.ask(read)) == tpm.RC_REFERENCE_H0
    # The same physical handle, given out anew, is the new object's alone.
    again = load_key(running, b"another")
    assert loaded_in_the_tpm(running, tpm.HT_TRANSIENT) == physical
    assert own_objects(running) == [again]
    flush(running, again)


def test_connection_may_be_kept_for_many_commands(running: RunningVm) -> None:
    with running.connect() as connection:
        for _ in range(3):
            connection.sendall(GET_RANDOM)
            assert code_of(read_response(connection)) == tpm.RC_SUCCESS


def test_commands_sent_in_one_go_are_answered_in_order(running: RunningVm) -> None:
    with running.connect() as connection:
        connection.sendall(GET_RANDOM + tpm.Command(tpm.CC_READ_PUBLIC, (1,)).encode())
        received = b""
        while len(received) < 20 + 10:
            received += connection.recv(4096)
        assert code_of(received[:20]) == tpm.RC_SUCCESS
        assert code_of(received[20:]) == 0x184  # TPM_RC_VALUE, handle 1


@pytest.mark.parametrize(
    ("request_hex", "answer_hex"),
    [
        ("00000005 00", "00000000"),  # CMD_SET_LOCALITY: what the TCTI's start sends
        ("00000005 03", "0000003d"),  # TPM_BAD_LOCALITY
        ("00000001", "00000000 00000028"),  # CMD_GET_CAPABILITY
        ("00000009", "00000000"),  # CMD_CANCEL_TPM_CMD
        ("00000002 00000000", "0000000a"),  # CMD_INIT: a guest cannot cycle the power
    ],
)
def test_control_socket_answers(
    running: RunningVm, request_hex: str, answer_hex: str
) -> None:
    with running.connect("tpm.sock.ctrl") as connection:
        connection.sendall(bytes.fromhex(request_hex))
        answer = connection.recv(64)
    assert answer == bytes.fromhex(answer_hex)


def test_hash_sequence_survives_being_swapped_out_and_ends(running: RunningVm) -> None:
    start = tpm.Command(0x186, parameters=bytes(2) + tpm.ALG_SHA256.to_bytes(2))
    answer = tpm.parse_response(running.ask(start.encode()), has_handle=True)
    sequence = answer.handle or 0
    update = tpm.Command(0x15C, (sequence,), (tpm.PASSWORD,), tpm.sized(b"one "))
    assert code_of(running.ask(update.encode())) == tpm.RC_SUCCESS
    others = [load_key(running, bytes([number])) for number in range(3)]
    null = tpm.RH_NULL.to_bytes(4)
    complete = tpm.Command(
        0x13E, (sequence,), (tpm.PASSWORD,), tpm.sized(b"two") + null
    )
    result = tpm.parse_response(running.ask(complete.encode()))
    digest = tpm.Reader(result.parameters).sized()
    assert digest == hashlib.sha256(b"one two").digest()
    assert own_objects(running) == sorted(others)  # the sequence is complete: no more
    assert {flush(running, handle) for handle in others} == {tpm.RC_SUCCESS}
