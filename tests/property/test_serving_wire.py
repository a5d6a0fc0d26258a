"""However the bytes are cut, the answers are the same; no bytes break the wire."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st
from support.serving import ALIAS, get, held_key, ring_with, split_answers
from support.serving_wire import FullSocket, Wire, feed, on_wire

from skragent.errors import RequestError
from skragent.serving.negotiation import choose_form
from skragent.serving.request import parse_head

REQUESTS = (
    get(f"/v1/keys/{ALIAS}"),
    get(f"/v1/keys/{ALIAS}", "Accept: application/x-pem-file"),
    get(f"/v1/keys/{ALIAS}", "Accept: text/html"),
    get("/v1/keys"),
    get("/v1/keys/unknown"),
    b"\r\n" + get("/healthz"),
    get("/healthz").replace(b"GET", b"POST"),
    get("/healthz", "Connection: close"),
    get("/healthz", "Content-Length: 3") + b"abc",
    get("/healthz").replace(b"1.1", b"1.0"),
)
CUTS = st.lists(st.integers(min_value=1, max_value=60), min_size=1, max_size=30)


def talk(chunks: list[bytes]) -> FullSocket:
    """Let chunks arrive, and return what the transport saw."""
    seen = []

    def test(wire: Wire) -> None:
        _, transport = wire.connect()
        for chunk in chunks:
            feed(transport, chunk)
        seen.append(transport)

    on_wire(ring_with(held_key()), test)
    return seen[0]


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """Cut bytes into pieces of these sizes, over and over."""
    pieces = []
    while data:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(data[:size])
        data = data[size:]
    return pieces


@settings(max_examples=60)
@given(st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=6), CUTS)
def test_however_the_bytes_are_cut_the_answers_are_the_same(
    requests: list[bytes], sizes: list[int]
) -> None:
    stream = b"".join(requests)
    whole, cut_up, one_by_one = (
        talk([stream]),
        talk(cut(stream, sizes)),
        talk(requests),
    )
    assert split_answers(whole.sent)
    assert cut_up.sent == whole.sent
    assert one_by_one.sent == whole.sent
    assert cut_up.closed == whole.closed == one_by_one.closed


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=300), max_size=4))
def test_arbitrary_bytes_are_never_answered_with_success(chunks: list[bytes]) -> None:
    answers = split_answers(talk(chunks).sent)
    assert all(answer.status >= 400 for answer in answers)


@settings(max_examples=60)
@given(st.sampled_from(REQUESTS), st.data())
def test_a_damaged_request_gets_at_most_one_answer(
    request: bytes, data: st.DataObject
) -> None:
    bit = data.draw(st.integers(min_value=0, max_value=len(request) * 8 - 1))
    damaged = bytearray(request)
    damaged[bit // 8] ^= 1 << bit % 8
    transport = talk([bytes(damaged)])
    assert len(split_answers(transport.sent)) <= 1


@given(st.binary(max_size=400))
def test_the_parser_is_total(head: bytes) -> None:
    with contextlib.suppress(RequestError):
        assert parse_head(head).method


@given(st.text(max_size=100))
def test_any_accept_is_a_form_or_a_refusal(accept: str) -> None:
    with contextlib.suppress(RequestError):
        assert choose_form(accept, ("jwk", "pem")).form in ("jwk", "pem")
