"""TCP connections within an exchange's time, over real sockets."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skragent.transport.connecting import (
    Address,
    connect,
    connect_to_first,
    interleave,
    resolve,
)
from skragent.transport.exchange import Exchange

# For what must succeed, or fail at once: never used up.
LONG = 60.0


def exchange(seconds: float = LONG) -> Exchange:
    return Exchange("https://v.vault.azure.net", seconds=seconds, max_bytes=9)


def address_of(listener: socket.socket) -> Address:
    return listener.family, socket.SOCK_STREAM, 0, listener.getsockname()


@pytest.fixture
def good() -> Iterator[Address]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield address_of(listener)


@pytest.fixture
def silent() -> Iterator[Address]:
    """An address that drops connection attempts: its backlog is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0)
            filler.connect_ex(listener.getsockname())
        yield address_of(listener)


@pytest.fixture
def closed() -> Address:
    """An address that refuses connections."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return address_of(listener)


NO_ROUTE: Address = (socket.AF_INET6, socket.SOCK_STREAM, 0, ("100::1", 443, 0, 0))


def test_an_address_that_drops_packets_does_not_use_up_the_time(
    silent: Address, good: Address
) -> None:
    with connect_to_first([silent, silent, good], exchange()) as sock:
        assert sock.getpeername() == good[3]


def test_an_address_that_refuses_is_followed_by_the_next_one(
    closed: Address, good: Address
) -> None:
    with connect_to_first([closed, NO_ROUTE, good], exchange()) as sock:
        assert sock.getpeername() == good[3]


def test_the_first_address_is_preferred(good: Address) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        connect_to_first([good, address_of(other)], exchange()) as sock,
    ):
        assert sock.getpeername() == good[3]


def test_if_every_address_fails_the_error_is_the_first_ones(closed: Address) -> None:
    with pytest.raises(ConnectionRefusedError):
        connect_to_first([closed, NO_ROUTE], exchange())


def test_if_every_address_is_silent_the_exchanges_time_ends_it(silent: Address) -> None:
    with pytest.raises(TimeoutError):
        connect_to_first([silent], exchange(0.3))


def test_no_address_at_all_is_an_error() -> None:
    with pytest.raises(OSError, match="no address"):
        connect_to_first([], exchange())


def test_options_are_set_before_the_connection_is_made(good: Address) -> None:
    option = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connect_to_first([good], exchange(), [option]) as sock:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_name_server_that_does_not_answer_ends_with_the_exchanges_time() -> None:
    over = threading.Event()

    def hang(*_: object, **__: object) -> list[object]:
        over.wait(LONG)
        return []

    try:
        with pytest.raises(TimeoutError):
            resolve("v.vault.azure.net", 443, exchange(0.2), hang)
    finally:
        over.set()


def test_a_name_without_an_address_is_an_error() -> None:
    with pytest.raises(socket.gaierror):
        connect("nothing.invalid", 443, exchange())


def test_a_name_that_cannot_be_encoded_is_an_error() -> None:
    with pytest.raises(UnicodeError):
        connect("a" * 64 + ".invalid", 443, exchange())


V4, V6 = socket.AF_INET, socket.AF_INET6


def test_families_alternate_beginning_with_the_first() -> None:
    given_ = [(V6, 1, 0, 1), (V6, 1, 0, 2), (V6, 1, 0, 3), (V4, 1, 0, 4)]
    assert [a[3] for a in interleave(given_)] == [1, 4, 2, 3]


@given(st.lists(st.tuples(st.sampled_from([V4, V6]), st.integers())))
def test_interleaving_keeps_every_address_and_each_familys_order(
    pairs: list[tuple[int, int]],
) -> None:
    addresses = [(family, 1, 0, number) for family, number in pairs]
    found = interleave(addresses)
    assert sorted(found) == sorted(addresses)
    for family in (V4, V6):
        of_family = [a for a in addresses if a[0] == family]
        assert [a for a in found if a[0] == family] == of_family
