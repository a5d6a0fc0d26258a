"""Callers that send descriptors: no other caller waits until these are closed."""

from __future__ import annotations

import array
import contextlib
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.serving import ALIAS, FORMS, get, held_key, ring_with, split_responses
from support.serving_server import RunningServer, read_all, serving

from skragent.client import SkragentClient
from skragent.keyring import KeyState
from skragent.serving import Limits

KEY = get(f"/v1/keys/{ALIAS}")
LAST = get(f"/v1/keys/{ALIAS}", "Connection: close")
_SO_PASSRIGHTS = 83
# Longer than the client waits for an answer, which is 10 s.
LINGER_SECONDS = 60


@contextlib.contextmanager
def lingering() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Make a socket that takes a minute to close, until its other end is closed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = socket.create_connection(listener.getsockname())
        reader, _ = listener.accept()
    try:
        sender.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                sender.send(bytes(1 << 16))
        linger = struct.pack("ii", 1, LINGER_SECONDS)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        yield sender, reader
    except BaseException:
        reader.close()
        raise
    finally:
        sender.close()


def send_with(
    connection: socket.socket, data: bytes, passed: socket.socket, flags: int = 0
) -> None:
    rights = array.array("i", [passed.fileno()])
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
    connection.sendmsg([data], ancillary, flags)


def leave_with(
    server: RunningServer, connection: socket.socket, data: bytes, flags: int = 0
) -> socket.socket:
    """Send a descriptor that lingers, so that the agent is the last one to have it.

    Gives the other end of what lingers: it is closed when that is.
    """
    with lingering() as (passed, reader), server.paused():
        send_with(connection, data, passed, flags)
        passed.close()
    return reader


@pytest.fixture
def old(tmp_path: Path) -> Iterator[RunningServer]:
    """A server on Linux before 6.16, which cannot refuse descriptors."""
    limits = Limits(connections_per_uid=4)
    with serving(tmp_path, ring_with(held_key()), limits=limits) as server:
        listener = server.api._listener._acceptor._socket
        with contextlib.suppress(OSError):  # such a kernel
            listener.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 1)
        yield server


def end_of(connection: socket.socket) -> bytes:
    """Read until the other end closes, which it may do with bytes unread."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(1 << 16):
            data += chunk
    return data


def fetch(server: RunningServer) -> bytes:
    return SkragentClient(server.path).get_bytes(ALIAS, "jwk")


@pytest.mark.parametrize(
    ("data", "flags"),
    [
        (b"x", 0),
        (KEY, 0),
        (LAST, 0),
        (KEY * 3, 0),
        (KEY, socket.MSG_OOB),
        (LAST, socket.MSG_OOB),
    ],
)
def test_a_slow_close_of_a_descriptor_delays_no_other_caller(
    old: RunningServer, data: bytes, flags: int
) -> None:
    with old.connect() as connection, leave_with(old, connection, data, flags):
        assert fetch(old) == FORMS["jwk"]
        assert end_of(connection) == b""  # ended, and not answered


def test_an_unread_descriptor_delays_no_other_caller(old: RunningServer) -> None:
    old.call(lambda: old.ring.put(held_key(forms={"jwk": b"x" * 10_000})))
    with old.connect() as connection:
        connection.sendall(KEY * 200)  # whose answers are not taken
        old.until(lambda: old.api._listener.admission._in_flight == 1)
        with leave_with(old, connection, b"x"):
            old.call(lambda: old.ring.drop(ALIAS, KeyState.DROPPED))  # it is cut
            assert old.ask(get("/healthz")).status == 200


def test_a_descriptor_on_a_rejected_connection_delays_no_other_caller(
    old: RunningServer,
) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(old.connect())
        stack.enter_context(old.connect())
        with old.connect() as refused:
            stack.enter_context(leave_with(old, refused, KEY))
            end_of(refused)
        stack.enter_context(old.connect())
        (response,) = split_responses(end_of(stack.enter_context(old.connect())))
        assert response.code == "serve.connections"


def test_a_connection_counts_until_its_close_returns(old: RunningServer) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            connection = stack.enter_context(old.connect())
            stack.enter_context(leave_with(old, connection, b"x"))
            assert end_of(connection) == b""
        (response,) = split_responses(end_of(stack.enter_context(old.connect())))
        assert response.code == "serve.connections"
    old.until(lambda: old.api._listener.admission._closing == 0)
    assert fetch(old) == FORMS["jwk"]


def test_callers_without_descriptors_are_served_as_usual(old: RunningServer) -> None:
    with old.connect() as connection:
        connection.sendall(KEY * 100 + LAST)
        responses = split_responses(read_all(connection))
    assert [a.body for a in responses] == [FORMS["jwk"]] * 101
    with old.connect() as connection:
        for byte in KEY[:-1]:
            connection.send(bytes([byte]))
        connection.send(KEY[-1:], socket.MSG_OOB)
        connection.shutdown(socket.SHUT_WR)
        (response,) = split_responses(read_all(connection))
    assert response.body == FORMS["jwk"]


def test_a_new_kernel_refuses_descriptors(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        try:
            ours.getsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS)
        except OSError:
            pytest.skip("needs SO_PASSRIGHTS (Linux 6.16)")
        with (
            serving(tmp_path, ring_with(held_key())) as server,
            server.connect() as connection,
        ):
            with pytest.raises(PermissionError):
                send_with(connection, KEY, theirs)
            connection.sendall(LAST)
            (response,) = split_responses(read_all(connection))
            assert response.body == FORMS["jwk"]
